from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from shared.db.engine import Sessions, open_database
from shared.settings import Settings
from shared.valkey.client import Valkey, open_valkey
from tests.support.api import api_settings


@pytest.fixture
def settings(database_url: str, valkey_url: str) -> Settings:
    return api_settings(database_url=database_url, valkey_url=valkey_url)


@pytest.fixture
async def sessions(settings: Settings) -> AsyncIterator[Sessions]:
    async with open_database(settings.database) as (_, sessions):
        yield sessions


@pytest.fixture
async def valkey(settings: Settings) -> AsyncIterator[Valkey]:
    async with open_valkey(settings.redis) as client:
        await client.flushdb()
        yield client

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from shared.db.engine import Sessions, open_database
from shared.settings import DatabaseSettings, RedisSettings, Settings
from shared.turns.finalize import TurnFinalizer
from shared.valkey.client import Valkey, open_valkey
from tests.support.finalizers import make_finalizer


@pytest.fixture
def settings(database_url: str, valkey_url: str) -> Settings:
    return Settings(
        database=DatabaseSettings.model_validate({"url": database_url, "pool_size": 5}),
        redis=RedisSettings.model_validate({"url": valkey_url}),
    )


@pytest.fixture
async def sessions(settings: Settings) -> AsyncIterator[Sessions]:
    async with open_database(settings.database) as (_, sessions):
        yield sessions


@pytest.fixture
async def valkey(settings: Settings) -> AsyncIterator[Valkey]:
    """A client of an empty Valkey: no other test runs in this process meanwhile."""
    async with open_valkey(settings.redis) as client:
        await client.flushdb()
        yield client


@pytest.fixture
def finalizer(sessions: Sessions, settings: Settings) -> TurnFinalizer:
    return make_finalizer(sessions, settings)

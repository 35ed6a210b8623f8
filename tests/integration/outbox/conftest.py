from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from shared.db.engine import Sessions, open_database
from shared.settings import DatabaseSettings


@pytest.fixture
async def sessions(database_url: str) -> AsyncIterator[Sessions]:
    settings = DatabaseSettings.model_validate({"url": database_url, "pool_size": 20})
    async with open_database(settings) as (_, sessions):
        yield sessions

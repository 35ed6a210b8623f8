from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from shared.db.engine import Sessions, open_database
from shared.settings import DatabaseSettings, Settings


@pytest.fixture
def settings(database_url: str) -> Settings:
    return Settings(
        database=DatabaseSettings.model_validate({"url": database_url, "pool_size": 5}),
    )


@pytest.fixture
async def sessions(settings: Settings) -> AsyncIterator[Sessions]:
    async with open_database(settings.database) as (_, sessions):
        yield sessions

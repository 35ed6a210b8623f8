from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from shared.db.engine import Sessions, open_database
from shared.settings import DatabaseSettings
from tests.support.storage_stage import StorageStage, storage_stage


@pytest.fixture
async def sessions(database_url: str) -> AsyncIterator[Sessions]:
    settings = DatabaseSettings.model_validate({"url": database_url, "pool_size": 10})
    async with open_database(settings) as (_, sessions):
        yield sessions


@pytest.fixture
async def stage(sessions: Sessions) -> AsyncIterator[StorageStage]:
    async with storage_stage(sessions) as stage:
        yield stage

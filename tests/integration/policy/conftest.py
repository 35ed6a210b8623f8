from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shared.db.engine import Sessions, open_database
from shared.settings import Settings
from tests.support.api import api_settings
from tests.support.catalogs import acceptance_catalog, write_catalog


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    path = write_catalog(acceptance_catalog(), tmp_path)
    return api_settings(database_url=database_url, valkey_url="redis://127.0.0.1:9/0", catalog={"path": path})


@pytest.fixture
async def sessions(settings: Settings) -> AsyncIterator[Sessions]:
    async with open_database(settings.database) as (_, sessions):
        yield sessions

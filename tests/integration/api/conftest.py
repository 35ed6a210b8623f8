from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from shared.settings import Settings
from tests.support.api import RunningApi, api_settings, running_api
from tests.support.catalogs import acceptance_catalog, write_catalog
from tests.support.tokens import Caller


@pytest.fixture
def settings(database_url: str, valkey_url: str, tmp_path: Path) -> Settings:
    path = write_catalog(acceptance_catalog(), tmp_path)
    return api_settings(database_url=database_url, valkey_url=valkey_url, catalog={"path": path})


@pytest.fixture
async def api(settings: Settings) -> AsyncIterator[RunningApi]:
    async with running_api(settings) as running:
        yield running


@pytest.fixture
def ann() -> Caller:
    return Caller()


@pytest.fixture
async def client(api: RunningApi, ann: Caller) -> AsyncIterator[httpx.AsyncClient]:
    """Ann's client."""
    async with api.client(ann) as client:
        yield client

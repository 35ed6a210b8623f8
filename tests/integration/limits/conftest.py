from __future__ import annotations

from pathlib import Path

import pytest

from shared.settings import Settings
from tests.support.api import api_settings
from tests.support.catalogs import acceptance_catalog, write_catalog
from tests.support.tokens import Caller


@pytest.fixture
def settings(database_url: str, valkey_url: str, tmp_path: Path) -> Settings:
    path = write_catalog(acceptance_catalog(), tmp_path)
    return api_settings(database_url=database_url, valkey_url=valkey_url, catalog={"path": path})


@pytest.fixture
def ann() -> Caller:
    return Caller()

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.engines import temporary_data_dir


@pytest.fixture(autouse=True)
def no_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables of whoever runs the tests would win over what a test configures."""
    for name in list(os.environ):
        if name.upper().startswith("MINI_CHAT_"):
            monkeypatch.delenv(name)


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A folder that does not exist yet, where the servers' user can get at it."""
    with temporary_data_dir() as folder:
        yield folder

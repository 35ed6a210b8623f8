from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path

import pytest

from tests.support.catalogs import acceptance_catalog
from tests.support.ledger import Ledger, open_ledger
from tests.support.tokens import Caller

OpenLedger = Callable[..., AbstractAsyncContextManager[Ledger]]


@pytest.fixture
def open_with(database_url: str, valkey_url: str, tmp_path: Path) -> OpenLedger:
    """Opens a ledger under another catalog or other settings than those of `ledger`."""
    return partial(open_ledger, database_url=database_url, valkey_url=valkey_url, folder=tmp_path)


@pytest.fixture
async def ledger(open_with: OpenLedger) -> AsyncIterator[Ledger]:
    """Under the acceptance catalog; the books agree at the end."""
    async with open_with(acceptance_catalog()) as ledger:
        yield ledger
        assert await ledger.differences() == []


@pytest.fixture
def ann() -> Caller:
    return Caller()

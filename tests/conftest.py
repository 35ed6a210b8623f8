"""The engines behind the tests, and what each test gets of them."""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.support.database import cloned_database, template_database
from tests.support.engines import TestEngines

TESTS = Path(__file__).parent

LONGEST_FIRST = ("chaos", "e2e", "integration")
"""Folders whose files are begun first, so that no long one runs alone at the end."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The order stays random within a folder."""
    rank = {folder: place for place, folder in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: rank.get(item.path.relative_to(TESTS).parts[0], len(rank)))


@pytest.fixture(scope="module")
def what_the_dead_have_opened() -> Iterator[None]:
    """For modules whose tests kill coroutines wherever they wait: a process that dies closes nothing.

    Collected here, once the loops of the tests are closed, it is not held against the tests that follow.
    """
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture(scope="session")
def engines() -> Iterator[TestEngines]:
    """Servers of this test process, started for the first test that needs one."""
    with TestEngines() as engines:
        yield engines


@pytest.fixture(scope="session")
def postgres_url(request: pytest.FixtureRequest) -> str:
    """A PostgreSQL server on which databases may be created; `TEST_POSTGRES_URL` names another than our own."""
    return os.environ.get("TEST_POSTGRES_URL") or _own(request).database_url


@pytest.fixture(scope="session")
def valkey_url(request: pytest.FixtureRequest) -> str:
    """A Valkey database that belongs to this test process; `TEST_VALKEY_URL` names another than our own."""
    return os.environ.get("TEST_VALKEY_URL") or _own(request).redis_url


@pytest.fixture(scope="session")
def worker_name() -> str:
    """Tells the test processes of one run apart."""
    return os.environ.get("PYTEST_XDIST_WORKER", "main")


@pytest.fixture(scope="session")
def template_url(postgres_url: str, worker_name: str) -> Iterator[str]:
    with template_database(postgres_url, worker=worker_name) as url:
        yield url


@pytest.fixture
async def database_url(template_url: str) -> AsyncIterator[str]:
    """A database of the test's own, migrated and empty."""
    async with cloned_database(template_url) as url:
        yield url


def _own(request: pytest.FixtureRequest) -> TestEngines:
    engines = request.getfixturevalue("engines")
    assert isinstance(engines, TestEngines)
    return engines

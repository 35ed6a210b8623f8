"""Fixtures of tests that drive real processes over HTTP. One deployment serves a whole test process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit

import asyncpg
import httpx
import pytest

from tests.support.database import cloned_database
from tests.support.deployment import Deployment, deployment
from tests.support.tokens import Caller


@pytest.fixture(scope="session")
def valkey_url(valkey_url: str) -> str:
    """A database of our own: the product's worker would take the jobs of other tests in this process."""
    return urlsplit(valkey_url)._replace(path="/1").geturl()


@pytest.fixture(scope="session")
def spare_valkey_url(valkey_url: str) -> str:
    """For a deployment beside `product`, whose worker would take its jobs, find no such turn, and drop them."""
    return urlsplit(valkey_url)._replace(path="/2").geturl()


@pytest.fixture(scope="session")
def product(template_url: str, valkey_url: str) -> Iterator[Deployment]:
    """Two API replicas and a worker. Tests share it: each is another user, and scripts its own answers.

    The first replica forwards what is announced, the second always reads from the log: what a test sees at both must
    be the same.
    """
    runner = asyncio.Runner()
    database = cloned_database(template_url)
    try:
        url = runner.run(database.__aenter__())
        with deployment(database_url=url, valkey_url=valkey_url, apis=1, workers=1) as running:
            running.start_api(RELAY__FAST_PATH="false")
            yield running
    finally:
        runner.run(database.__aexit__(None, None, None))
        runner.close()


@pytest.fixture
def caller() -> Caller:
    """A user whom no other test knows."""
    return Caller()


@pytest.fixture
async def client(product: Deployment, caller: Caller) -> AsyncIterator[httpx.AsyncClient]:
    """`caller` at the first replica."""
    async with product.client(caller) as client:
        yield client


@pytest.fixture
async def other_replica(product: Deployment, caller: Caller) -> AsyncIterator[httpx.AsyncClient]:
    """`caller` at the second replica."""
    async with product.client(caller, api=1) as client:
        yield client


@pytest.fixture
async def database(product: Deployment) -> AsyncIterator[asyncpg.Connection]:
    """The product's database, to look into, and to bring about what no request can."""
    connection = await asyncpg.connect(product.database_url)
    try:
        yield connection
    finally:
        await connection.close()

"""Databases for tests: one is migrated once per test process, every test gets a copy of it and commits for real."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from shared.db.migrate import migrate
from shared.settings import DatabaseSettings, Settings

_serial = count(1)


@contextmanager
def template_database(server_url: str, *, worker: str) -> Iterator[str]:
    """The URL of a migrated database, to be copied with `cloned_database` and never connected to meanwhile.

    Args:
        server_url: any database of the server, as a user who may create others.
        worker: tells test processes that share a server apart.
    """
    name = f"template_{worker}_{os.getpid()}"
    url = _replace_database(server_url, name)
    asyncio.run(_create(server_url, name))
    try:
        migrate(Settings(database=DatabaseSettings.model_validate({"url": url})))
        yield url
    finally:
        asyncio.run(_drop(server_url, name))


@asynccontextmanager
async def cloned_database(template_url: str) -> AsyncIterator[str]:
    """The URL of a copy of the template, dropped at the end of the block together with whoever is connected."""
    template = urlsplit(template_url).path.removeprefix("/")
    name = f"test_{template.removeprefix('template_')}_{next(_serial)}"
    server_url = _replace_database(template_url, "postgres")
    await _create(server_url, name, template=template)
    try:
        yield _replace_database(template_url, name)
    finally:
        await _drop(server_url, name)


async def _create(server_url: str, name: str, *, template: str = "template1") -> None:
    await _execute(server_url, f'CREATE DATABASE "{name}" TEMPLATE "{template}"')


async def _drop(server_url: str, name: str) -> None:
    await _execute(server_url, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


async def _execute(server_url: str, statement: str) -> None:
    connection = await asyncpg.connect(server_url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


def _replace_database(url: str, name: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))

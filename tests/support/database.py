"""Databases for tests: one is migrated once per test process, every test gets a copy of it and commits for real.

To make a copy costs PostgreSQL far more than to empty one, so a copy is used again if its schema is as it was.
"""

from __future__ import annotations

import asyncio
import os
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from itertools import count
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from shared.db.migrate import migrate
from shared.settings import DatabaseSettings, Settings


@dataclass(frozen=True)
class _Copy:
    url: str
    schema: asyncpg.Record | None


_serial = count(1)
_free: defaultdict[str, list[_Copy]] = defaultdict(list)
"""By the template's URL: copies that nobody uses, as empty as it is."""

_END_OTHERS = """
    SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
    WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()
"""
_USED_TABLES = """
    SELECT string_agg(oid::regclass::text, ', ') FROM pg_class
    WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND relname <> 'alembic_version'
      AND pg_relation_size(oid) > 0
"""
_SCHEMA = r"""
    SELECT (SELECT string_agg(version_num, ',') FROM alembic_version), (
        SELECT array_agg((
            relname, attname, atttypid, attnotnull, attisdropped, pg_get_expr(adbin, adrelid)
        )::text ORDER BY relname, attnum)
        FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid
        LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
        WHERE relnamespace = 'public'::regnamespace
    ), (
        SELECT array_agg((conrelid::regclass, conname, pg_get_constraintdef(oid))::text ORDER BY conrelid, conname)
        FROM pg_constraint WHERE connamespace = 'public'::regnamespace
    ), (
        SELECT array_agg((tgrelid::regclass, tgname, tgenabled)::text ORDER BY tgrelid, tgname)
        FROM pg_trigger WHERE NOT tgisinternal
    ), (
        SELECT array_agg(nspname::text ORDER BY nspname) FROM pg_namespace WHERE nspname NOT LIKE 'pg\_%'
    ), (
        SELECT setconfig FROM pg_db_role_setting JOIN pg_database ON pg_database.oid = setdatabase
        WHERE datname = current_database() AND setrole = 0
    )
"""


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
        for copy in _free.pop(url, ()):
            asyncio.run(_drop(server_url, _name(copy.url)))
        asyncio.run(_drop(server_url, name))


@asynccontextmanager
async def cloned_database(template_url: str) -> AsyncIterator[str]:
    """The URL of a database like the template; at the end of the block whoever is connected is cut off."""
    free = _free[template_url]
    copy = free.pop() if free else await _copy(template_url)
    is_as_before = False
    try:
        yield copy.url
        is_as_before = await _empty(copy.url) == copy.schema
    finally:
        if is_as_before:
            free.append(copy)
        else:
            await _drop(_replace_database(copy.url, "postgres"), _name(copy.url))


async def _copy(template_url: str) -> _Copy:
    template = _name(template_url)
    name = f"test_{template.removeprefix('template_')}_{next(_serial)}"
    await _create(_replace_database(template_url, "postgres"), name, template=template)
    url = _replace_database(template_url, name)
    return _Copy(url, await _empty(url))


async def _empty(url: str) -> asyncpg.Record | None:
    """Delete all rows, and return what `_SCHEMA` says; None if a table of the product is gone."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(_END_OTHERS)
        if (tables := await connection.fetchval(_USED_TABLES)) is not None:
            await connection.execute(f"TRUNCATE {tables} RESTART IDENTITY CASCADE")
        return await connection.fetchrow(_SCHEMA)
    except asyncpg.UndefinedTableError:
        return None
    finally:
        await connection.close()


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


def _name(url: str) -> str:
    return urlsplit(url).path.removeprefix("/")

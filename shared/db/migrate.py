"""Bring a database to the revision this build needs, and tell whether it is there.

Migrations expand first and contract in a later release, so that the previous release runs on the new schema.
"""

from __future__ import annotations

import asyncio
from functools import cache
from importlib import resources

import asyncpg
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from shared.db.engine import create_engine
from shared.settings import ConfigurationError, Settings

# One migrating process at a time; the others wait and find nothing left to do. Any number will do, if it is ours.
MIGRATION_LOCK = 7_243_905


def migrate(settings: Settings) -> None:
    """Upgrade to the newest revision. Safe to run from several processes at once.

    Raises:
        ConfigurationError: `database.url` is not set, or leads to no database that can be used.
    """
    try:
        asyncio.run(_migrate(settings))
    except (DBAPIError, asyncpg.PostgresError, OSError, TimeoutError) as error:
        raise ConfigurationError(f"database.url: cannot migrate: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    """The first line of what the server or the network said."""
    cause = getattr(error, "orig", None) or error
    return (str(cause).strip() or type(cause).__name__).splitlines()[0]


async def is_current(session: AsyncSession) -> bool:
    """Whether the database is at, or beyond, the revision this build needs."""
    found = await session.scalar(text("SELECT to_regclass('alembic_version')"))
    if found is None:
        return False
    revision = await session.scalar(text("SELECT version_num FROM alembic_version"))
    # A revision that this build does not know was made by a newer release, whose schema still serves this one.
    return revision is not None and (revision == _newest_revision() or revision not in _known_revisions())


async def _migrate(settings: Settings) -> None:
    engine = create_engine(settings.database, pool_size=1)
    try:
        async with engine.begin() as connection:
            await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
            await connection.run_sync(_upgrade)
    finally:
        await engine.dispose()


def _upgrade(connection: Connection) -> None:
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(resources.files("shared.db") / "migrations"))
    return config


@cache
def _known_revisions() -> frozenset[str]:
    return frozenset(script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions())


@cache
def _newest_revision() -> str | None:
    return ScriptDirectory.from_config(_config()).get_current_head()

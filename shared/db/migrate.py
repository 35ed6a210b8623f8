"""Bring a database to the revision this build needs, and tell whether it is there.

Migrations expand first and contract in a later release, so that the previous release runs on the new schema. They run
beside processes that serve: a change of a table waits for whoever reads it, a backup for one, and everybody who comes
later waits behind it. So it waits for a moment only, steps back to let them pass, and tries again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from functools import cache
from importlib import resources

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from shared.backoff import outlast
from shared.db.command import DATABASE_FAILURE, reason_of
from shared.db.engine import create_engine
from shared.db.transaction import sqlstate
from shared.settings import ConfigurationError, Settings

# One migrating process at a time; the others wait and find nothing left to do. Any number will do, if it is ours.
MIGRATION_LOCK = 7_243_905

TABLE_LOCK_WAIT_MS = 2_000
"""How long requests may be held up by a change that waits for a table."""
RETRY_SECS = (1.0, 10.0)
GIVE_UP_AFTER_SECS = 900.0
# https://www.postgresql.org/docs/current/errcodes-appendix.html
_TABLE_IN_USE = {"55P03", "40P01"}
"""The wait for a table took too long, or was for somebody who waits for a table that the migration has changed."""

logger = logging.getLogger(__name__)


def migrate(settings: Settings) -> None:
    """Upgrade to the newest revision. Safe to run from several processes at once.

    Raises:
        ConfigurationError: `database.url` is not set, or leads to no database that can be used.
    """
    try:
        asyncio.run(_migrate(settings))
    except DATABASE_FAILURE as error:
        raise ConfigurationError(f"database.url: cannot migrate: {reason_of(error)}") from error


@dataclass(frozen=True, slots=True)
class Revisions:
    """Where the schema stands, and what this build needs. `found` is None if it has never been migrated."""

    found: str | None
    needed: str | None

    @property
    def is_newer(self) -> bool:
        """The database is beyond this build, whose needs the schema still serves."""
        return self.found is not None and self.found not in _known_revisions()

    @property
    def is_current(self) -> bool:
        """The database is at, or beyond, the revision this build needs."""
        return self.found is not None and (self.found == self.needed or self.is_newer)


async def read_revisions(session: AsyncSession) -> Revisions:
    found = await session.scalar(text("SELECT to_regclass('alembic_version')"))
    if found is not None:
        found = await session.scalar(text("SELECT version_num FROM alembic_version"))
    return Revisions(found, _newest_revision())


async def is_current(session: AsyncSession) -> bool:
    """Whether the database is at, or beyond, the revision this build needs."""
    return (await read_revisions(session)).is_current


async def _migrate(settings: Settings) -> None:
    engine = create_engine(settings.database, pool_size=1, has_time_limit=False)
    give_up_at = time.monotonic() + GIVE_UP_AFTER_SECS

    async def upgrade() -> None:
        async with engine.begin() as connection:
            await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
            # From here on: another migration is waited for until it is through.
            await connection.execute(text(f"SET LOCAL lock_timeout = {TABLE_LOCK_WAIT_MS}"))
            await connection.run_sync(_upgrade)

    def is_table_in_use(error: Exception) -> bool:
        if not isinstance(error, DBAPIError) or sqlstate(error) not in _TABLE_IN_USE:
            return False
        if time.monotonic() >= give_up_at:
            return False
        logger.warning("a table is in use, will try again")
        return True

    first, longest = RETRY_SECS
    try:
        await outlast(upgrade, is_outage=is_table_in_use, first=first, longest=longest)
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

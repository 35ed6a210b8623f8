"""The way of a schema from revision to revision, beside processes that use it."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection

from shared.db import engine as engine_module
from shared.db import migrate as migrate_module
from shared.db.engine import create_engine
from shared.db.migrate import MIGRATION_LOCK, migrate
from shared.db.tables import metadata
from shared.settings import DatabaseSettings, Settings
from tests.support.waiting import wait_until

_WAITS_LONG = "SELECT count(*) > 0 FROM pg_locks WHERE NOT granted AND clock_timestamp() - waitstart > interval '0.2 s'"


@pytest.fixture
def configured(database_url: str) -> Settings:
    return Settings(database=DatabaseSettings.model_validate({"url": database_url}))


async def differences(settings: Settings) -> list[Any]:
    """What a migration that alembic would write now had in it."""

    def compare(connection: Connection) -> list[Any]:
        options = {"compare_type": True, "compare_server_default": True}
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), metadata))

    engine = create_engine(settings.database)
    async with engine.connect() as connection:
        found = await connection.run_sync(compare)
    await engine.dispose()
    return found


async def downgrade(settings: Settings, revision: str) -> None:
    def run(connection: Connection) -> None:
        config = migrate_module._config()
        config.attributes["connection"] = connection
        command.downgrade(config, revision)

    engine = create_engine(settings.database)
    async with engine.begin() as connection:
        await connection.run_sync(run)
    await engine.dispose()


async def test_migrations_make_what_the_code_declares(configured: Settings) -> None:
    assert await differences(configured) == []


async def test_every_migration_can_be_taken_back(configured: Settings, database_url: str) -> None:
    await downgrade(configured, "base")
    connection = await asyncpg.connect(database_url)
    left = await connection.fetch("SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace")
    await connection.close()
    assert {row["relname"] for row in left} == {"alembic_version", "alembic_version_pkc"}
    await asyncio.to_thread(migrate, configured)
    assert await differences(configured) == []


async def test_processes_that_migrate_at_once_do_not_disturb_each_other(configured: Settings) -> None:
    await downgrade(configured, "base")
    await asyncio.gather(*(asyncio.to_thread(migrate, configured) for _ in range(4)))
    assert await differences(configured) == []


async def test_a_migration_may_take_longer_than_a_statement_of_ours(
    configured: Settings, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An index on a large table takes minutes, and so does the wait for another process that makes it."""
    await downgrade(configured, "0002")
    monkeypatch.setattr(engine_module, "COMMAND_TIMEOUT_SECS", 0.05)
    other = await asyncpg.connect(database_url)
    async with asyncio.TaskGroup() as tasks, other.transaction():
        await other.execute("SELECT pg_advisory_xact_lock($1)", MIGRATION_LOCK)
        tasks.create_task(asyncio.to_thread(migrate, configured))
        await wait_until(lambda: other.fetchval(_WAITS_LONG))
    assert await differences(configured) == []
    await other.close()


async def test_a_table_in_use_holds_up_nobody_but_the_migration(
    configured: Settings,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """While somebody reads a table for long, others can read it as well: the change steps back and comes again."""
    monkeypatch.setattr(migrate_module, "TABLE_LOCK_WAIT_MS", 50)
    monkeypatch.setattr(migrate_module, "RETRY_SECS", (0.05, 0.05))
    await downgrade(configured, "0001")
    backup, client = await asyncpg.connect(database_url), await asyncpg.connect(database_url)
    async with asyncio.TaskGroup() as tasks, backup.transaction():
        await backup.execute("SELECT 1 FROM chat_turns")
        tasks.create_task(asyncio.to_thread(migrate, configured))
        await wait_until(lambda: caplog.messages.count("a table is in use, will try again") > 1)
        await client.execute("SELECT 1 FROM chat_turns", timeout=5)
    assert await differences(configured) == []
    await backup.close()
    await client.close()


async def test_a_deadlock_with_a_request_is_no_end_of_the_migration(
    configured: Settings, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """All migrations are one transaction: it keeps the tables it has changed while it waits for the next one."""
    await downgrade(configured, "0001")
    request, other = await asyncpg.connect(database_url), await asyncpg.connect(database_url)
    async with asyncio.TaskGroup() as tasks, request.transaction():
        await request.execute("SET LOCAL deadlock_timeout = '1min'")  # the migration is the one to give way
        await request.execute("LOCK TABLE attachments IN ROW EXCLUSIVE MODE")
        tasks.create_task(asyncio.to_thread(migrate, configured))
        await wait_until(lambda: other.fetchval(_WAITS_LONG))
        await request.execute("SELECT 1 FROM chat_turns", timeout=5)
    assert "a table is in use, will try again" in caplog.messages
    assert await differences(configured) == []
    await request.close()
    await other.close()


async def test_a_table_that_stays_in_use_ends_the_migration(
    configured: Settings, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate_module, "TABLE_LOCK_WAIT_MS", 50)
    monkeypatch.setattr(migrate_module, "GIVE_UP_AFTER_SECS", 0.0)
    await downgrade(configured, "0001")
    backup = await asyncpg.connect(database_url)
    async with backup.transaction():
        await backup.execute("SELECT 1 FROM chat_turns")
        with pytest.raises(Exception, match="lock timeout"):
            await asyncio.to_thread(migrate, configured)
    await backup.close()

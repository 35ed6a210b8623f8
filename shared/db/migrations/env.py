"""Alembic's entry: runs on the connection that `shared.db.migrate` gives it, or connects by itself for the CLI."""

from __future__ import annotations

import asyncio

from alembic import context
from sqlalchemy import Connection

from shared.db.engine import create_engine
from shared.db.tables import metadata
from shared.settings import load_settings


def _run(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=metadata, compare_type=True, compare_server_default=True)
    with context.begin_transaction():
        context.run_migrations()


async def _connect_and_run() -> None:
    engine = create_engine(load_settings().database, pool_size=1, has_time_limit=False)
    async with engine.begin() as connection:
        await connection.run_sync(_run)
    await engine.dispose()


given = context.config.attributes.get("connection")
if given is not None:
    _run(given)
else:
    asyncio.run(_connect_and_run())

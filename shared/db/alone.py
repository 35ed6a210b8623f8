"""Work that one process of the fleet does at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from shared.db.engine import Sessions


@asynccontextmanager
async def alone(sessions: Sessions, lock: int) -> AsyncIterator[AsyncSession | None]:
    """A transaction that holds the advisory lock `lock`; None if another process has it, which does the work then.

    The lock ends with the transaction, and with the connection of a process that dies.
    """
    async with sessions.begin() as session:
        is_mine = await session.scalar(text("SELECT pg_try_advisory_xact_lock(:lock)"), {"lock": lock})
        yield session if is_mine else None

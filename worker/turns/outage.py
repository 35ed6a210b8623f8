"""After an outage of PostgreSQL every lease looks expired: workers get one lease of time to renew before it counts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from shared.db.engine import Sessions

SERVER_AGE = "SELECT now() - pg_postmaster_start_time()"


class OutageGuard:
    """Remembers, for one periodic task, when the database could last be asked."""

    def __init__(self, *, lease: timedelta, interval: timedelta) -> None:
        self._lease = lease
        self._longest_pause = (lease + interval).total_seconds()
        self._last_success: float | None = None
        self._held_back_until = 0.0

    @asynccontextmanager
    async def watching(self, sessions: Sessions) -> AsyncIterator[tuple[AsyncSession, bool]]:
        """A session, and whether leases can be believed: not for one lease after a failed or a long-missed pass, nor
        while the server has been up for less than that. The first pass of a process is not held back by the former.
        """
        loop = asyncio.get_running_loop()
        if self._last_success is not None and loop.time() - self._last_success > self._longest_pause:
            self._hold_back()
        try:
            async with sessions.begin() as session:
                server_age = await session.scalar(text(SERVER_AGE))
                is_over = loop.time() >= self._held_back_until and server_age >= self._lease
                yield session, is_over
        except BaseException:
            self._hold_back()
            raise
        self._last_success = loop.time()

    def _hold_back(self) -> None:
        self._held_back_until = asyncio.get_running_loop().time() + self._lease.total_seconds()

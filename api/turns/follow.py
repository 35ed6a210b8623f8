"""Looks after streams that are silent: one clock for all of them, and one query per process and second.

The clock wakes the streams that must look around by themselves, to fill a silence or to try again, so that none needs a
timer of its own.

A stream follows its event log. If the log is gone, or ends without a terminal event because whoever should have written
it died, nothing would ever arrive; the turn's row is what says so.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol
from uuid import UUID

from shared.db.engine import Sessions, is_database_away
from shared.turns.repository import TurnRepository

logger = logging.getLogger(__name__)

INTERVAL_SECS = 1.0
TICK_SECS = 0.5
SILENCE_SECS = 2.0
"""A stream that has sent a frame more recently than this is left alone."""


class Follower(Protocol):
    """A stream, as seen from here."""

    @property
    def turn_id(self) -> UUID: ...

    def is_silent(self, now: float) -> bool: ...

    def on_tick(self, now: float) -> None: ...

    def on_row(self, *, is_terminal: bool) -> None: ...

    def close(self) -> None: ...


class TurnFollower:
    """All open streams of the process."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._streams: set[Follower] = set()
        self._is_closing = False
        self._database_away_since: float | None = None

    def __len__(self) -> int:
        return len(self._streams)

    def add(self, stream: Follower) -> None:
        self._streams.add(stream)
        if self._is_closing:
            stream.close()

    def remove(self, stream: Follower) -> None:
        self._streams.discard(stream)

    def close_all(self) -> None:
        """Let go of every client, those that come later included: the process is about to end."""
        self._is_closing = True
        for stream in self._streams:
            stream.close()

    def database_away_secs(self, now: float) -> float:
        """For how long the database has not answered; 0 while it does, or is not asked."""
        return 0.0 if self._database_away_since is None else now - self._database_away_since

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._tick(), name="clock of the streams")
            tasks.create_task(self._follow_rows(), name="rows of the streams")

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(TICK_SECS)
            now = loop.time()
            for stream in self._streams:
                stream.on_tick(now)

    async def _follow_rows(self) -> None:
        """Look around once a second."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(INTERVAL_SECS)
            now = loop.time()
            silent = [stream for stream in self._streams if stream.is_silent(now)]
            if not silent:
                self._database_away_since = None
                continue
            try:
                await self._look_after(silent)
                self._database_away_since = None
            except Exception as error:
                if not is_database_away(error):
                    logger.exception("silent turns cannot be looked after")
                elif self._database_away_since is None:
                    logger.warning("silent turns cannot be looked after: %r", error)
                self._database_away_since = self._database_away_since or loop.time()

    async def _look_after(self, silent: list[Follower]) -> None:
        async with self._sessions() as session:
            # A turn whose row is gone was purged with its chat: it has ended.
            ended = set(await TurnRepository(session).list_ended(list({stream.turn_id for stream in silent})))
        for stream in silent:
            stream.on_row(is_terminal=stream.turn_id in ended)

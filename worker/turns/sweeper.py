"""Finds running turns that no worker holds, and has them tried again, or ends them when their attempts are used up.

Every worker runs it, as a task of its own and not as a job: it must work while all job slots are taken, and it must not
need the queue it repairs. Two sweepers do no harm: an enqueue is idempotent and a finalization is a compare-and-set.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta

from sqlalchemy import text

from shared.db.engine import Sessions
from shared.events.log import EventLog
from shared.queue.jobs import RunTurn
from shared.queue.queue import TurnQueue
from shared.settings import Settings
from shared.turns.finalize import finalize_turn
from shared.turns.lifecycle import Ending
from shared.turns.repository import TurnRepository, is_unheld
from shared.turns.stop import TurnStopper, end_log
from shared.turns.tables import Turn
from shared.valkey.keyspace import TurnKeys

SWEEP_INTERVAL = timedelta(seconds=2)
SWEEP_LIMIT = 500
SERVER_AGE = "SELECT now() - pg_postmaster_start_time()"


@dataclass
class Sweeper:
    settings: Settings
    sessions: Sessions
    queue: TurnQueue
    log: EventLog
    stopper: TurnStopper
    _last_success: float | None = field(default=None, init=False)
    _held_back_until: float = field(default=0.0, init=False)

    async def sweep(self) -> None:
        """One pass. Raises what the database or Valkey raises; the next pass is another chance."""
        try:
            turns = await self._find()
        except BaseException:
            self._hold_back()
            raise
        for turn in turns:
            await self._act_on(turn)

    async def _act_on(self, turn: Turn) -> None:
        if turn.cancel_requested_at is not None:
            await self.stopper.end_unheld(turn)
        elif self._is_used_up(turn) or await self._cannot_start_over(turn):
            await self._end(turn)
        else:
            await self.queue.enqueue(RunTurn(turn.id, turn.attempt + 1))

    async def _cannot_start_over(self, turn: Turn) -> bool:
        """Something was shown, or may have been, and the client did not agree to a restart."""
        if turn.on_worker_loss != "fail" or turn.attempt == 0:
            return False
        return await self.log.has_shown_content(TurnKeys(turn.chat_id, turn.request_id)) is not False

    async def _find(self) -> list[Turn]:
        """Turns to act on: none for one lease after an outage, when every lease looks expired."""
        now = asyncio.get_running_loop().time()
        lease = self.settings.turns.lease_secs
        if self._last_success is not None and now - self._last_success > lease:
            self._hold_back()
        async with self.sessions() as session:
            server_age = await session.scalar(text(SERVER_AGE))
            turns = await TurnRepository(session).list_unheld(limit=SWEEP_LIMIT)
        self._last_success = now
        if now < self._held_back_until or server_age < timedelta(seconds=lease):
            # Turns that nobody ever claimed have no lease that could look expired.
            return [turn for turn in turns if turn.lease_expires_at is None]
        return turns

    def _hold_back(self) -> None:
        self._held_back_until = asyncio.get_running_loop().time() + self.settings.turns.lease_secs

    def _is_used_up(self, turn: Turn) -> bool:
        return turn.lease_expires_at is not None and turn.lost_attempts + 1 >= self.settings.turns.max_attempts

    async def _end(self, turn: Turn) -> None:
        finalized = await finalize_turn(
            self.sessions,
            turn_id=turn.id,
            chat_id=turn.chat_id,
            ending=Ending.failed("orphan_timeout", provider_started=turn.attempt > 0),
            attempt=turn.attempt,
            only_if=is_unheld(),
        )
        if finalized is not None:
            await end_log(self.log, TurnKeys(turn.chat_id, turn.request_id), finalized)

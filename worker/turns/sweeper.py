"""Finds running turns that no worker holds, and has them tried again, or ends them when their attempts are used up.

Every worker runs it, as a task of its own and not as a job: it must work while all job slots are taken, and it must not
need the queue it repairs. Two sweepers do no harm: an enqueue is idempotent and a finalization is a compare-and-set.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import timedelta

from shared.db.engine import Sessions
from shared.events.log import EventLog
from shared.logs import log_fields
from shared.queue.queue import JobQueue
from shared.settings import Settings
from shared.turns.finalize import TurnFinalizer
from shared.turns.hand_back import enqueue_again, reason_for_another
from shared.turns.lifecycle import Ending
from shared.turns.log_fields import fields_of
from shared.turns.repository import TurnRepository, is_unheld
from shared.turns.stop import TurnStopper, end_log
from shared.turns.tables import Turn
from shared.valkey.keyspace import TurnKeys
from worker.turns.outage import OutageGuard

logger = logging.getLogger(__name__)

SWEEP_INTERVAL = timedelta(seconds=2)
SWEEP_LIMIT = 500


@dataclass
class Sweeper:
    settings: Settings
    sessions: Sessions
    finalizer: TurnFinalizer
    queue: JobQueue
    log: EventLog
    stopper: TurnStopper
    outage: OutageGuard

    async def sweep(self) -> None:
        """One pass.

        A turn that cannot be acted on does not keep others from their turn: the first error is raised at the end.
        """
        async with self.outage.watching(self.sessions) as (session, is_over):
            turns = await TurnRepository(session).list_unheld(limit=SWEEP_LIMIT)
        # Turns that nobody holds have no lease that could look expired after an outage.
        turns = [turn for turn in turns if is_over or turn.lease_expires_at is None]
        failures = [failure for turn in turns if (failure := await self._try_to_act_on(turn)) is not None]
        if failures:
            raise failures[0]

    async def _try_to_act_on(self, turn: Turn) -> Exception | None:
        with log_fields(**fields_of(turn), processing_stage="sweep"):
            try:
                await self._act_on(turn)
            except Exception as error:
                logger.warning("a turn could not be swept: %r", error)
                return error
        return None

    async def _act_on(self, turn: Turn) -> None:
        if turn.cancel_requested_at is not None:
            await self.stopper.end_unheld(turn)
        elif self._is_used_up(turn) or await self._cannot_start_over(turn):
            await self._end(turn)
        else:
            await enqueue_again(self.queue, turn, attempt=turn.attempt + 1, reason=reason_for_another(turn))

    async def _cannot_start_over(self, turn: Turn) -> bool:
        """Something was shown, or may have been, and the client did not agree to a restart."""
        if turn.on_worker_loss != "fail" or turn.attempt == 0:
            return False
        return await self.log.has_shown_content(TurnKeys(turn.chat_id, turn.request_id)) is not False

    def _is_used_up(self, turn: Turn) -> bool:
        return turn.lease_expires_at is not None and turn.lost_attempts + 1 >= self.settings.turns.max_attempts

    async def _end(self, turn: Turn) -> None:
        finalized = await self.finalizer.finalize(
            turn,
            Ending.failed("orphan_timeout", provider_started=turn.attempt > 0),
            attempt=turn.attempt,
            only_if=is_unheld(),
        )
        if finalized is not None:
            await end_log(self.log, TurnKeys(turn.chat_id, turn.request_id), finalized)

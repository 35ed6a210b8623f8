"""Taking a turn away from the worker that holds it, so that another one generates the answer anew.

The turn's next attempt is taken in the row, in the statement that releases the lease. From then on the old worker can
neither renew its lease nor end the turn, whatever state it is in: if it lives, it finds that out at its next renewal, a
third of a lease later at most, and breaks off its call to the provider. Only releasing the lease, as a worker does with
its own turns, would not do: a worker that lives would renew it at once. It is not a lost attempt.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from shared.db.engine import Sessions
from shared.events.log import EventLog
from shared.queue.jobs import AttemptReason, RunTurn
from shared.queue.queue import JobQueue
from shared.turns.repository import TurnRepository
from shared.turns.tables import Turn
from shared.valkey.client import REDIS_FAILURE
from shared.valkey.keyspace import TurnKeys

logger = logging.getLogger(__name__)


class HandBack(StrEnum):
    """What became of a turn that was to be handed back."""

    HANDED_BACK = "handed_back"
    QUEUED = "queued"
    """No worker held it; its job is in the queue."""
    WOULD_FAIL = "would_fail"
    """Clients have seen something of it, and it was sent with `on_worker_loss: fail`."""
    MOVED = "moved"
    """Somebody else has changed it meanwhile: look again."""
    ENDED = "ended"
    NOT_FOUND = "not_found"


@dataclass(frozen=True)
class TurnRelease:
    sessions: Sessions
    log: EventLog
    queue: JobQueue

    async def hand_back(self, turn_id: UUID) -> HandBack:
        """Compare-and-set on what is read first, in the row; then the job. Raises what the database raises."""
        async with self.sessions() as session:
            turns = TurnRepository(session)
            turn = await turns.find(turn_id)
            is_held = turn is not None and await turns.is_held(turn_id)
        if turn is None:
            return HandBack.NOT_FOUND
        if turn.state != "running":
            return HandBack.ENDED
        if not is_held:
            await self._enqueue(turn, attempt=turn.attempt + 1, reason=reason_for_another(turn))
            return HandBack.QUEUED
        if await self._would_fail(turn):
            return HandBack.WOULD_FAIL
        async with self.sessions.begin() as session:
            if not await TurnRepository(session).take_away(turn_id, attempt=turn.attempt):
                return HandBack.MOVED
        await self._enqueue(turn, attempt=turn.attempt + 2, reason="drain")
        return HandBack.HANDED_BACK

    async def _would_fail(self, turn: Turn) -> bool:
        """An answer that has begun would not be begun anew; a turn that is to stop ends either way."""
        if turn.on_worker_loss != "fail" or turn.cancel_requested_at is not None:
            return False
        return await self.log.has_shown_content(TurnKeys(turn.chat_id, turn.request_id)) is not False

    async def _enqueue(self, turn: Turn, *, attempt: int, reason: AttemptReason) -> None:
        try:
            await enqueue_again(self.queue, turn, attempt=attempt, reason=reason)
        except REDIS_FAILURE as error:
            logger.warning("a turn is left to the sweeper: %r", error, extra={"turn_id": str(turn.id)})


async def enqueue_again(queue: JobQueue, turn: Turn, *, attempt: int, reason: AttemptReason) -> None:
    """Have the turn run as its `attempt`-th. What a dead worker had taken is still there, so it stays one trace."""
    trace = await queue.traceparent_of(RunTurn(turn.id, turn.attempt)) if turn.attempt else None
    await queue.enqueue(RunTurn(turn.id, attempt, traceparent=trace, reason=reason))


def reason_for_another(turn: Turn) -> AttemptReason:
    """Why a turn that nobody holds gets another attempt. A lease that was given back is none that ran out."""
    if turn.attempt == 0:
        return "first"
    return "drain" if turn.lease_expires_at is None else "worker_lost"

"""Stopping a turn, from any process: note it in the row, tell the worker, and end it here if no worker holds it.

The row is what counts: a signal that Valkey loses is found there at the next lease renewal. The turn's `:cancel` key is
the cut-off: once it is set, the log takes no further content, so that the text shown and the text stored are the same.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from uuid import UUID

from shared.clock import Clock
from shared.db.engine import Sessions
from shared.events.log import EventLog
from shared.metrics import Metrics
from shared.turns.finalize import Finalized, TurnFinalizer
from shared.turns.lifecycle import CancelTrigger, Ending
from shared.turns.repository import TurnRepository, is_unheld
from shared.turns.tables import Turn
from shared.valkey.client import REDIS_FAILURE, Valkey
from shared.valkey.keyspace import CANCEL_CHANNEL, TurnKeys

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TurnStopper:
    sessions: Sessions
    finalizer: TurnFinalizer
    valkey: Valkey
    log: EventLog
    clock: Clock
    metrics: Metrics

    async def stop(self, turn_id: UUID, trigger: CancelTrigger, *, since: float | None = None) -> None:
        """Ask for the end of a running turn. It has ended on return if no worker held it; else its worker ends it.

        Asking again, or for a turn that has ended, changes nothing. Needs PostgreSQL only.

        Args:
            since: when the last client left, by the monotonic clock, if that is why.
        """
        async with self.sessions.begin() as session:
            turn = await TurnRepository(session).request_stop(turn_id, trigger=trigger)
        if turn is None:
            return
        self.metrics.cancel_requested.labels(trigger=trigger).inc()
        if since is not None:
            elapsed_ms = (time.monotonic() - since) * 1000
            self.metrics.time_from_ui_disconnect_to_cancel_ms.labels(trigger=trigger).observe(elapsed_ms)
        await self.carry_out(turn)

    async def carry_out(self, turn: Turn) -> None:
        """Do what `stop` does after the request is committed."""
        await self._signal(turn)
        if turn.lease_expires_at is not None and turn.lease_expires_at >= self.clock.now():
            return
        try:
            await self.end_unheld(turn)
        except REDIS_FAILURE as error:
            logger.warning("a stopped turn is left to the sweeper: %r", error, extra={"turn_id": str(turn.id)})

    async def end_unheld(self, turn: Turn) -> Finalized | None:
        """End a turn that is to stop and that no worker holds; None if one does by now, and will see the request.

        Raises what `REDIS_FAILURE` names: what clients have seen of the turn cannot be told, so it must wait.
        """
        keys = TurnKeys(turn.chat_id, turn.request_id)
        text = await self._shown_text(keys, turn)
        finalized = await self.finalizer.finalize(
            turn,
            Ending.cancelled(_trigger_of(turn), text=text, provider_started=turn.attempt > 0),
            attempt=turn.attempt,
            only_if=is_unheld(),
        )
        if finalized is not None:
            await end_log(self.log, keys, finalized)
        return finalized

    async def _signal(self, turn: Turn) -> None:
        keys = TurnKeys(turn.chat_id, turn.request_id)
        try:
            await self.log.close_to_content(keys, _trigger_of(turn))
            await self.valkey.publish(CANCEL_CHANNEL, str(turn.id))
        except REDIS_FAILURE as error:
            logger.warning("a stop is left to the lease renewal: %r", error, extra={"turn_id": str(turn.id)})

    async def _shown_text(self, keys: TurnKeys, turn: Turn) -> str:
        """What clients have seen; nothing before the first attempt, and nothing of a log that is gone."""
        if turn.attempt == 0:
            return ""
        await self.log.close_to_content(keys, _trigger_of(turn))
        return await self.log.shown_text(keys)


async def end_log(log: EventLog, keys: TurnKeys, finalized: Finalized) -> None:
    """Announce an end that was committed from outside the worker; relays find it in the row if this fails."""
    try:
        await log.end(keys, finalized.terminal_frame(), attempt=finalized.turn.attempt)
    except REDIS_FAILURE as error:
        logger.warning("the end of a turn is not in its log: %r", error, extra={"turn_id": str(finalized.turn.id)})


def _trigger_of(turn: Turn) -> CancelTrigger:
    match turn.cancel_trigger:
        case "user_stop" | "disconnect" | "timeout" | "internal" as trigger:
            return trigger
        case _:
            return "internal"

"""The backstop behind leases and sweeper: fails turns whose holder does not move, and turns older than any may be.

One pass at a time in the whole fleet, by an advisory lock that ends with its transaction. Each turn it fails is a
transaction of its own whose compare-and-set repeats what was seen.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from datetime import timedelta

from sqlalchemy import text

from shared.clock import Clock
from shared.db.engine import Sessions
from shared.events.log import EventLog
from shared.logs import log_fields
from shared.metrics import Metrics
from shared.settings import Settings
from shared.turns.finalize import TurnFinalizer
from shared.turns.lifecycle import Ending
from shared.turns.log_fields import fields_of
from shared.turns.repository import TurnRepository, is_stuck
from shared.turns.stop import end_log
from shared.turns.tables import Turn
from shared.valkey.keyspace import TurnKeys
from worker.turns.outage import OutageGuard

logger = logging.getLogger(__name__)

BATCH = 100
# Any number will do, if it is ours.
WATCHDOG_LOCK = 7_243_906


@dataclass
class Watchdog:
    settings: Settings
    sessions: Sessions
    finalizer: TurnFinalizer
    log: EventLog
    clock: Clock
    metrics: Metrics
    outage: OutageGuard

    async def scan(self) -> None:
        """One pass, unless another process is at it. Raises what the database raises."""
        began = time.monotonic()
        try:
            async with self.outage.watching(self.sessions) as (session, is_over):
                is_ours = await session.scalar(text("SELECT pg_try_advisory_xact_lock(:key)"), {"key": WATCHDOG_LOCK})
                if not (is_ours and is_over):
                    return
                turns = await TurnRepository(session).list_stuck(
                    no_progress_for=self._no_progress_for, older_than=self._older_than, limit=BATCH
                )
                # The lock is held meanwhile, by this session; each end is a transaction on another connection.
                for turn in turns:
                    await self._try_to_fail(turn)
        finally:
            self.metrics.orphan_scan_duration_seconds.observe(time.monotonic() - began)

    @property
    def _no_progress_for(self) -> timedelta:
        return timedelta(seconds=self.settings.orphan_watchdog.timeout_secs)

    @property
    def _older_than(self) -> timedelta:
        return timedelta(seconds=self.settings.turns.max_age_secs)

    async def _try_to_fail(self, turn: Turn) -> None:
        """One turn that cannot be failed does not keep the others."""
        with log_fields(**fields_of(turn), processing_stage="watchdog"):
            try:
                await self._fail(turn)
            except Exception:
                logger.exception("a stuck turn could not be failed")

    async def _fail(self, turn: Turn) -> None:
        is_too_old = self.clock.now() - turn.started_at >= self._older_than
        reason = "max_age" if is_too_old else "stale_progress"
        self.metrics.orphan_detected.labels(reason=reason).inc()
        finalized = await self.finalizer.finalize(
            turn,
            replace(Ending.failed("orphan_timeout", provider_started=turn.attempt > 0), was_stuck=True),
            attempt=turn.attempt,
            only_if=is_stuck(no_progress_for=self._no_progress_for, older_than=self._older_than),
        )
        if finalized is None:
            return
        self.metrics.orphan_finalized.labels(reason=reason).inc()
        logger.error("a stuck turn was failed", extra={"reason": reason})
        await end_log(self.log, TurnKeys(turn.chat_id, turn.request_id), finalized)

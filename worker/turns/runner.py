"""Takes one turn from its claim to its end.

claim (who may) -> open the attempt in the log (nobody else any more) -> plan -> provider -> finalize -> terminal event.
A turn can be taken away at any of these steps: a worker that is no longer the holder writes nothing more, and says
nothing. Whatever raises here leaves a row without a live lease, which the sweeper of some worker finds.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from uuid import UUID

from shared.backoff import outlast
from shared.clock import Clock
from shared.db.engine import Sessions, is_database_away, single_statement
from shared.events import frames
from shared.events.frames import Frame
from shared.events.log import Appended, EventLog
from shared.logs import add_log_fields
from shared.metrics import Metrics
from shared.queue.jobs import AttemptReason, RunTurn
from shared.queue.queue import JobQueue
from shared.settings import ConfigurationError, Settings
from shared.summaries.trigger import SummaryWish
from shared.trace import current_traceparent
from shared.turns.errors import ContextBudgetExceededError
from shared.turns.finalize import Finalized, TurnFinalizer
from shared.turns.frames import started_frame
from shared.turns.lifecycle import Ending, TurnState
from shared.turns.log_fields import fields_of
from shared.turns.repository import TurnRepository
from shared.turns.stop import end_log, leave_log
from shared.turns.tables import Turn
from shared.turns.tools import IncludedTools
from shared.valkey.client import REDIS_FAILURE, is_valkey_away
from worker.providers.registry import ProviderRegistry
from worker.turns.generation import Generation
from worker.turns.held import HeldTurn, StopKind
from worker.turns.leases import LeaseKeeper
from worker.turns.plan import PlannedTurn, TurnPlanner
from worker.turns.publisher import Publisher
from worker.turns.tool_calls import ToolCalls, ToolCounter
from worker.turns.warnings import QuotaWarnings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TurnRunner:
    settings: Settings
    sessions: Sessions
    finalizer: TurnFinalizer
    log: EventLog
    queue: JobQueue
    leases: LeaseKeeper
    providers: ProviderRegistry
    planner: TurnPlanner
    clock: Clock
    metrics: Metrics
    quota_warnings: QuotaWarnings

    async def run(self, turn_id: UUID, *, attempt: int, reason: AttemptReason) -> None:
        """Take the turn as its `attempt`-th holder. Safe to call twice: only one claim of an attempt succeeds."""
        async with single_statement(self.sessions) as session:
            turn = await TurnRepository(session).claim(
                turn_id, attempt=attempt, owner=self.leases.owner, lease=self.leases.lease
            )
        if turn is None:
            return  # somebody else has the attempt, or the turn has ended: normal
        held = HeldTurn(turn)
        add_log_fields(**fields_of(turn))
        self.metrics.turn_attempts.labels(reason=reason).inc()
        if attempt == 1 and turn.last_progress_at is not None:
            # Both by the database's clock: the claim has just set the latter.
            self.metrics.dispatch_latency_ms.observe((turn.last_progress_at - turn.started_at).total_seconds() * 1000)
        with self.leases.holding(held):
            await self._run_attempt(held)

    async def _run_attempt(self, held: HeldTurn) -> None:
        started = started_frame(held.turn)
        async with Publisher(
            held,
            log=self.log,
            sessions=self.sessions,
            settings=self.settings,
            metrics=self.metrics,
            started=started,
        ) as publisher:
            ending = await self._produce(held, publisher, started)
            if ending is None:
                await self._give_up(held)
                return
            finalized = await self._finalize(held, ending)
            if finalized is None:
                return
            if publisher.is_open:
                cited = [frames.citations(ending.citations)] if finalized.ending.citations else []
                warnings = await self.quota_warnings.after(finalized)
                await publisher.finish([*cited, finalized.terminal_frame(quota_warnings=warnings)])
                await leave_log(self.log, held.keys, finalized)
            else:
                await end_log(self.log, held.keys, finalized)

    async def _produce(self, held: HeldTurn, publisher: Publisher, started: Frame) -> Ending | None:
        """How the turn ends, by this worker's doing; None if it is not this worker's to end."""
        if held.turn.cancel_requested_at is not None:
            return await self._cancelled_at_claim(held)
        opened = await self._open(held, started)
        if opened is Appended.REFUSED:
            # Text of a lost attempt was shown, and this client cannot start over.
            return Ending.failed("orphan_timeout", provider_started=True)
        if opened is Appended.CANCELLED:
            return await self._cancelled_at_claim(held)
        if not opened.is_success:
            return None
        publisher.begin()
        had_started = held.attempt > 1
        try:
            planned = await self._plan(held)
            provider = self.providers.get(planned.model.provider_id, held.turn.tenant_id, planned.provider)
        except ContextBudgetExceededError as error:
            return Ending.failed("context_length_exceeded", provider_started=had_started, detail=error.detail)
        except (LookupError, ConfigurationError) as error:
            # Such as a tenant's key that has gone since the start: no other attempt would find it.
            return Ending.failed("validation_error", provider_started=had_started, detail=str(error))
        except Exception as error:
            logger.critical("the turn failed unexpectedly", exc_info=error, extra=fields_of(held.turn))
            return Ending.failed("internal_error", provider_started=had_started, detail=repr(error))
        if await self._is_to_stop(held):
            return Ending.cancelled("internal", text="", provider_started=held.attempt > 1)
        if self.settings.thread_summary_worker.enabled:
            pct = self.settings.thread_summary_worker.compression_threshold_pct
            held.summary_wish = SummaryWish(planned.use, pct)
        generation = Generation(
            held,
            publisher,
            provider=provider,
            request=planned.request,
            tools=ToolCalls(
                held,
                counter=ToolCounter.with_settings(self.settings.quota),
                sessions=self.sessions,
                metrics=self.metrics,
                provider=planned.model.provider_id,
                model=planned.model.id,
            ),
            sessions=self.sessions,
            metrics=self.metrics,
        )
        return await generation.run(time_left=self._time_left(held.turn))

    async def _cancelled_at_claim(self, held: HeldTurn) -> Ending:
        """The stop came before this attempt: what an earlier one has shown is the answer."""
        if held.attempt == 1:
            return Ending.cancelled("internal", text="", provider_started=False)

        async def cut_off() -> str:
            await self.log.close_to_content(held.keys, held.turn.cancel_trigger or "internal")
            return await self.log.shown_text(held.keys)

        text = await outlast(
            cut_off, is_outage=partial(_is_valkey_away, held, "the log of a stopped turn cannot be read"), first=0.05
        )
        return Ending.cancelled("internal", text=text, provider_started=True)

    async def _is_to_stop(self, held: HeldTurn) -> bool:
        """The last look before the provider is asked, and paid."""
        try:
            return await self.log.is_closed_to_content(held.keys)
        except REDIS_FAILURE:
            return False  # the row says it too, at the next lease renewal

    async def _open(self, held: HeldTurn, started: Frame) -> Appended:
        """Fence off older attempts; while Valkey is away, keep the lease and try again."""
        restart = frames.restart(attempt=held.attempt, reason="worker_lost")

        async def open_attempt() -> Appended:
            if held.requested_stop is not None:
                is_stop = held.requested_stop.kind is StopKind.CANCELLED
                return Appended.CANCELLED if is_stop else Appended.SUPERSEDED
            opened = await self.log.open_attempt(
                held.keys,
                attempt=held.attempt,
                started=started,
                restart=restart,
                refuse_restart=held.turn.on_worker_loss == "fail",
            )
            return opened.outcome

        return await outlast(
            open_attempt, is_outage=partial(_is_valkey_away, held, "the attempt could not be opened"), first=0.05
        )

    async def _plan(self, held: HeldTurn) -> PlannedTurn:
        """Build the request, however long the database is away.

        Raises:
            ContextBudgetExceededError, LookupError: it cannot be built.
        """
        return await outlast(
            lambda: self._build_request(held.turn),
            is_outage=lambda error: not held.is_superseded and _is_database_away(held, "history cannot be read", error),
            first=0.1,
        )

    async def _build_request(self, turn: Turn) -> PlannedTurn:
        counted = IncludedTools(
            file_search=turn.file_search_included,
            web_search=turn.web_search_enabled,
            code_interpreter=turn.code_interpreter_included,
        )
        planned = await self.planner.plan(turn, counted=counted)
        for item in planned.context.left_out:
            self.metrics.context_truncation.labels(truncated_item=item).inc()
        return planned

    def _time_left(self, turn: Turn) -> timedelta:
        """Of `turns.total_timeout_secs`, which spans all attempts."""
        return turn.started_at + timedelta(seconds=self.settings.turns.total_timeout_secs) - self.clock.now()

    async def _finalize(self, held: HeldTurn, ending: Ending) -> Finalized | None:
        """Commit the end, for as long as the attempt stands: this worker holds the only copy of the text."""

        async def finalize() -> Finalized | None:
            if held.is_superseded:
                return None
            finalized = await self.finalizer.finalize(
                held.turn, ending, attempt=held.attempt, summary_wish=held.summary_wish
            )
            held.is_finalized = True
            if finalized is not None:
                self._observe_abort(held, finalized)
            if held.summary_wish is not None and finalized is not None and ending.state is TurnState.COMPLETED:
                result = "scheduled" if held.summary_wish.is_granted else "not_needed"
                self.metrics.thread_summary_trigger.labels(result=result).inc()
            return finalized

        async with held.lock:
            held.is_progressing = True
            return await outlast(finalize, is_outage=partial(_is_database_away, held, "finalization failed"), first=0.1)

    def _observe_abort(self, held: HeldTurn, finalized: Finalized) -> None:
        """How promptly a stopped turn was stopped; why is known for certain only now."""
        if held.abort is not None and finalized.ending.state is TurnState.CANCELLED:
            trigger = finalized.turn.cancel_trigger or "internal"
            self.metrics.time_to_abort_ms.labels(trigger).observe(held.abort.elapsed_ms)
            self.metrics.tokens_after_cancel.labels(trigger).observe(held.abort.deltas)

    async def _give_up(self, held: HeldTurn) -> None:
        """Leave the turn to others; a turn that is handed back goes into the queue at once."""
        stop = held.requested_stop
        if stop is None or stop.kind is not StopKind.HAND_BACK:
            return
        async with single_statement(self.sessions) as session:
            if not await TurnRepository(session).hand_back(held.turn.id, attempt=held.attempt):
                return
        job = RunTurn(held.turn.id, held.attempt + 1, traceparent=current_traceparent(), reason="drain")
        try:
            await self.queue.enqueue(job)
        except REDIS_FAILURE as error:
            logger.warning("a turn handed back is left to the sweeper: %r", error, extra=fields_of(held.turn))


def _is_valkey_away(held: HeldTurn, what: str, error: Exception) -> bool:
    return is_valkey_away(error) and _note_outage(held, what, error)


def _is_database_away(held: HeldTurn, what: str, error: Exception) -> bool:
    return is_database_away(error) and _note_outage(held, what, error)


def _note_outage(held: HeldTurn, what: str, error: Exception) -> bool:
    logger.warning("%s, will try again: %r", what, error, extra=fields_of(held.turn))
    return True

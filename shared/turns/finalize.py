"""The one way a turn ends: a single transaction whose compare-and-set on `running` decides who does it.

    1  the chat's row, then the turn's: `running` -> its end                    nobody else can end it any more
    2  the user's buckets: the reserve goes out, the charge goes in
    3  the answer; the usage event and the audit event in the outbox

Locks are taken in the order of every transaction here: chat, turn, buckets, then inserts. Nothing is published before
the commit; a caller that gets None has lost and must publish nothing at all. What a turn costs follows from columns
that never change after its insert, so it is worked out before the transaction and is the same at every try.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from sqlalchemy import ColumnElement
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from shared.db.engine import Sessions, is_database_away
from shared.db.transaction import run_transaction
from shared.events import frames
from shared.events.frames import DoneUsage, Frame
from shared.ids import ChatId, TenantId
from shared.metrics import Metrics
from shared.outbox.messages import AUDIT, THREAD_SUMMARY, USAGE_SNAPSHOT, audit, usage_snapshot
from shared.outbox.tables import OutboxMessage
from shared.policy.source import PolicySnapshots
from shared.quotas.buckets import BucketKey, buckets_of
from shared.quotas.credits import Price
from shared.quotas.metrics import count_settlement
from shared.quotas.repository import Account, Counts, QuotaRepository
from shared.quotas.settlement import Reserved, Settlement, settle
from shared.quotas.usage_event import usage_event
from shared.settings import Settings
from shared.summaries.trigger import SummaryWish, schedule_summary
from shared.trace import span
from shared.turns.audit_events import AuditedContent, turn_ended
from shared.turns.end_statements import Ended, end_turn, record_end
from shared.turns.lifecycle import Ending, TokenUsage, TurnState, cancelled_frame
from shared.turns.log_fields import fields_of
from shared.turns.metrics import count_end
from shared.turns.tables import Turn

logger = logging.getLogger(__name__)

_STATUS: Final[Mapping[TurnState, str]] = {
    TurnState.COMPLETED: "ok",
    TurnState.FAILED: "error",
    TurnState.CANCELLED: "cancelled",
}
"""How the log calls an end."""


@dataclass(frozen=True, slots=True)
class Finalized:
    """A turn that this caller has ended, as it was committed."""

    turn: Turn
    selected_model: str
    ending: Ending

    def terminal_frame(self, *, quota_warnings: list[dict[str, Any]] | None = None) -> Frame:
        """The event that announces the committed end."""
        if self.ending.state is TurnState.CANCELLED:
            return cancelled_frame(self.turn.cancel_trigger)
        if self.ending.state is TurnState.FAILED:
            return self.ending.error_frame()
        return done_frame(
            self.turn, selected_model=self.selected_model, usage=self.ending.usage, quota_warnings=quota_warnings
        )


def done_frame(
    turn: Turn,
    *,
    selected_model: str,
    usage: TokenUsage | None,
    quota_warnings: list[dict[str, Any]] | None = None,
) -> Frame:
    """The `done` event of a completed turn; but for the warnings from its stored columns alone."""
    effective_model = turn.effective_model or selected_model
    return frames.done(
        usage=DoneUsage(usage.input_tokens, usage.output_tokens, effective_model)
        if usage is not None and usage.is_known
        else None,
        effective_model=effective_model,
        selected_model=selected_model,
        quota_decision=turn.quota_decision or "allow",
        downgrade_from=turn.downgrade_from,
        downgrade_reason=turn.downgrade_reason,
        quota_warnings=quota_warnings,
    )


@dataclass(frozen=True, slots=True)
class _Bill:
    """What is to be taken from whom."""

    account: Account
    buckets: tuple[BucketKey, ...]
    reserved: Reserved
    settlement: Settlement


@dataclass(frozen=True, slots=True)
class _Committed:
    ended: Ended
    content: AuditedContent | None
    short: list[BucketKey]
    """Buckets that had less reserved than the turn had taken."""


class _LostError(Exception):
    """Somebody else has ended the turn: undo what this transaction has done so far."""


@dataclass(frozen=True)
class TurnFinalizer:
    sessions: Sessions
    policies: PolicySnapshots
    settings: Settings
    metrics: Metrics
    wake_outbox: Callable[[], object] | None = None
    """Called after each commit, in a process that delivers the outbox."""

    async def finalize(
        self,
        turn: Turn,
        ending: Ending,
        *,
        attempt: int,
        only_if: ColumnElement[bool] | None = None,
        summary_wish: SummaryWish | None = None,
    ) -> Finalized | None:
        """Commit `ending`, with the assistant message where it has one; None if somebody else has ended the turn.

        A completed answer that the database refuses to store ends the turn as `message_persistence_failed` instead;
        a stopped turn ends without its partial answer.

        Args:
            turn: as it was once read.
            attempt: the attempt that the caller holds, or has seen in the row.
            only_if: what a caller that is not the worker has seen and must still hold, such as `is_unheld`.
            summary_wish: what decides whether a completed turn asks for a summary of its chat; told the decision.

        Raises:
            Exception: the database is away (`is_database_away`); nothing is committed, the call may be repeated.
        """
        try:
            return await self._commit(turn, ending, attempt, only_if, summary_wish)
        except _LostError:
            return None
        except DBAPIError as error:
            if not ending.has_answer or is_database_away(error):
                raise
            logger.critical("the answer could not be stored", extra=fields_of(turn), exc_info=error)
        try:
            return await self._commit(turn, _without_answer(ending), attempt, only_if, None)
        except _LostError:
            return None

    async def _commit(
        self,
        turn: Turn,
        ending: Ending,
        attempt: int,
        only_if: ColumnElement[bool] | None,
        summary_wish: SummaryWish | None,
    ) -> Finalized:
        bill = await self._bill(turn, ending)
        began = time.monotonic()
        with span("finalize"):
            committed = await run_transaction(
                self.sessions, lambda session: self._end(session, turn, ending, bill, attempt, only_if, summary_wish)
            )
        self.metrics.finalization_latency_ms.observe((time.monotonic() - began) * 1000)
        self._observe(turn, ending, bill, committed, summary_wish)
        return Finalized(committed.ended.turn, committed.ended.selected_model, ending)

    async def _bill(self, turn: Turn, ending: Ending) -> _Bill | None:
        """None for a turn that has reserved nothing."""
        reserved = Reserved.of(turn)
        if reserved is None:
            return None
        try:
            catalog = await self.policies.snapshot(reserved.policy_version)
        except LookupError:
            catalog = None
        model = None if catalog is None else catalog.find_model(reserved.effective_model)
        settlement = settle(
            reserved,
            None if model is None else Price.of(model),
            ending.usage,
            provider_started=ending.provider_started,
            tolerance=self.settings.quota.overshoot_tolerance_factor,
        )
        return _Bill(
            Account(turn.tenant_id, reserved.user_id, reserved.daily_start, reserved.monthly_start),
            # No reserve may outlive its turn, so an unknown model is taken for one that reserves everywhere.
            buckets_of("premium" if model is None else model.tier),
            reserved,
            settlement,
        )

    async def _end(
        self,
        session: AsyncSession,
        turn: Turn,
        ending: Ending,
        bill: _Bill | None,
        attempt: int,
        only_if: ColumnElement[bool] | None,
        summary_wish: SummaryWish | None,
    ) -> _Committed:
        ended = await end_turn(
            session,
            turn,
            ending,
            attempt=attempt,
            only_if=only_if,
            with_prompt=self.settings.audit.include_content,
        )
        if ended is None:
            raise _LostError
        short = [] if bill is None else await _charge(session, ended.turn, ending, bill)
        content = None
        if self.settings.audit.include_content:
            content = AuditedContent.of(prompt=ended.prompt or "", response=ending.text)
        await record_end(session, ended.turn, ending, _events(ended, ending, bill, content))
        if summary_wish is not None and ending.state is TurnState.COMPLETED:
            summary_wish.is_granted = await schedule_summary(
                session,
                tenant_id=TenantId(turn.tenant_id),
                chat_id=ChatId(turn.chat_id),
                use=summary_wish.use,
                threshold_pct=summary_wish.threshold_pct,
            )
        return _Committed(ended, content, short)

    def _observe(
        self,
        turn: Turn,
        ending: Ending,
        bill: _Bill | None,
        committed: _Committed,
        summary_wish: SummaryWish | None,
    ) -> None:
        count_end(self.metrics, committed.ended.turn, ending)
        _log_end(committed.ended.turn, ending)
        if ending.error_code == "internal_error":
            self.metrics.unknown_error_code.inc()
        for redacted in (committed.content.prompt, committed.content.response) if committed.content else ():
            for pattern, hits in redacted.hits.items():
                self.metrics.audit_redaction_hits.labels(pattern=pattern).inc(hits)
        kinds = [AUDIT] if bill is None else [AUDIT, USAGE_SNAPSHOT]
        if summary_wish is not None and summary_wish.is_granted:
            kinds.append(THREAD_SUMMARY)
        for kind in kinds:
            self.metrics.outbox_enqueue.labels(kind=kind, result="ok").inc()
        if self.wake_outbox is not None:
            self.wake_outbox()
        if bill is None:
            logger.error("a turn without a reserve has ended; nothing was charged", extra=fields_of(turn))
            return
        settlement, usage = bill.settlement, bill.settlement.usage or TokenUsage()
        count_settlement(
            self.metrics,
            charged_tokens=settlement.charged_tokens,
            overshoot_tokens=usage.input_tokens + usage.output_tokens - bill.reserved.tokens,
            is_capped=settlement.is_overshoot_capped,
            images=turn.image_inputs if settlement.is_charged else 0,
        )
        if settlement.fault == "overflow":
            self.metrics.credits_overflow.inc()
            logger.critical("the usage of a turn is out of bounds; its estimate was charged", extra=fields_of(turn))
        elif settlement.fault == "no_price":
            logger.critical("the price of a turn is unknown; its reserve was charged", extra=fields_of(turn))
        for key in committed.short:
            self.metrics.quota_negative.labels(key.period).inc()
            logger.error("%s %s had less reserved than a turn of it", *key, extra=fields_of(turn))


def _events(ended: Ended, ending: Ending, bill: _Bill | None, content: AuditedContent | None) -> list[OutboxMessage]:
    turn = ended.turn
    assert turn.completed_at is not None  # noqa: S101 (it has just been set)
    told = turn_ended(
        turn, selected_model=ended.selected_model, ending=ending, attachments=ended.attachments, content=content
    )
    events = [audit(told, tenant_id=turn.tenant_id, now=turn.completed_at)]
    if bill is not None:
        usage = usage_event(
            turn,
            selected_model=ended.selected_model,
            ending=ending,
            reserved=bill.reserved,
            settlement=bill.settlement,
        )
        events.append(usage_snapshot(usage, tenant_id=turn.tenant_id, chat_id=turn.chat_id, now=turn.completed_at))
    return events


async def _charge(session: AsyncSession, turn: Turn, ending: Ending, bill: _Bill) -> list[BucketKey]:
    counts = Counts(
        file_search_calls=ending.file_search_calls,
        web_search_calls=turn.web_search_completed_count,
        code_interpreter_calls=turn.code_interpreter_completed_count,
        image_inputs=turn.image_inputs if bill.settlement.is_charged else 0,
    )
    return await QuotaRepository(session).settle(
        bill.account, bill.buckets, reserve=bill.reserved.credits_micro, settlement=bill.settlement, counts=counts
    )


def _without_answer(ending: Ending) -> Ending:
    """What is committed instead if the answer cannot be stored."""
    if ending.state is TurnState.COMPLETED:
        return Ending.failed(
            "message_persistence_failed", provider_started=True, usage=ending.usage, response_id=ending.response_id
        )
    return replace(ending, text="")


def _log_end(turn: Turn, ending: Ending) -> None:
    outcome = {
        "processing_stage": "finalize",
        "status": _STATUS[ending.state],
        "attempt": turn.attempt,
        "provider_response_id": turn.provider_response_id,
    }
    if ending.error_code is not None:
        outcome["error_code"] = ending.error_code
    logger.info("turn ended", extra={**fields_of(turn), **outcome})

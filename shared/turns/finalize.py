"""The one way a turn ends: a single transaction whose compare-and-set on `running` decides who does it.

Locks are taken in the order of every transaction here: the chat's row, the turn's row, then inserts. Nothing is
published before the commit; a caller that gets None has lost and must publish nothing at all.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, func, insert, literal, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from shared.chats.tables import Chat
from shared.db.engine import Sessions, is_database_away
from shared.db.transaction import run_transaction
from shared.events import frames
from shared.events.frames import DoneUsage, Frame
from shared.ids import ChatId, TenantId
from shared.messages.tables import Message
from shared.summaries.trigger import SummaryWish, schedule_summary
from shared.turns.lifecycle import Ending, TokenUsage, TurnState, cancelled_frame
from shared.turns.repository import TurnRepository
from shared.turns.tables import Turn

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Finalized:
    """A turn that this caller has ended, as it was committed."""

    turn: Turn
    selected_model: str
    ending: Ending

    def terminal_frame(self) -> Frame:
        """The event that announces the committed end."""
        if self.ending.state is TurnState.CANCELLED:
            return cancelled_frame(self.turn.cancel_trigger)
        if self.ending.state is TurnState.FAILED:
            return self.ending.error_frame()
        return done_frame(self.turn, selected_model=self.selected_model, usage=self.ending.usage)


def done_frame(turn: Turn, *, selected_model: str, usage: TokenUsage | None) -> Frame:
    """The `done` event of a completed turn, from its stored columns alone."""
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
    )


async def finalize_turn(
    sessions: Sessions,
    *,
    turn_id: UUID,
    chat_id: UUID,
    ending: Ending,
    attempt: int,
    only_if: ColumnElement[bool] | None = None,
    summary_wish: SummaryWish | None = None,
) -> Finalized | None:
    """Commit `ending`, with the assistant message where it has one; None if somebody else has ended the turn.

    A completed answer that the database refuses to store ends the turn as `message_persistence_failed` instead.

    Args:
        attempt: the attempt that the caller holds, or has seen in the row.
        only_if: what a caller that is not the worker has seen and must still hold, such as `is_unheld`.

    Raises:
        Exception: the database is away (`is_database_away`); nothing is committed, the call may be repeated.
    """

    async def commit(ending: Ending) -> Finalized:
        return await run_transaction(
            sessions, lambda session: _finalize(session, turn_id, chat_id, ending, attempt, only_if, summary_wish)
        )

    try:
        return await commit(ending)
    except _LostError:
        return None
    except DBAPIError as error:
        if ending.state is not TurnState.COMPLETED or is_database_away(error):
            raise
        logger.critical("the answer could not be stored", extra={"turn_id": str(turn_id)}, exc_info=error)
    failed = Ending.failed(
        "message_persistence_failed", provider_started=True, usage=ending.usage, response_id=ending.response_id
    )
    try:
        return await commit(failed)
    except _LostError:
        return None


class _LostError(Exception):
    """Somebody else has ended the turn: undo what this transaction has done so far."""


async def _finalize(
    session: AsyncSession,
    turn_id: UUID,
    chat_id: UUID,
    ending: Ending,
    attempt: int,
    only_if: ColumnElement[bool] | None,
    summary_wish: SummaryWish | None,
) -> Finalized:
    selected_model = await session.scalar(
        update(Chat).where(Chat.id == chat_id).values(updated_at=func.clock_timestamp()).returning(Chat.model)
    )
    turns = TurnRepository(session)
    turn = await turns.finalize(turn_id, attempt=attempt, only_if=only_if, values=_columns(ending))
    if turn is None or selected_model is None:
        raise _LostError
    if ending.state is TurnState.COMPLETED:
        await _store_answer(session, turn, ending)
        if summary_wish is not None:
            summary_wish.is_granted = await schedule_summary(
                session,
                tenant_id=TenantId(turn.tenant_id),
                chat_id=ChatId(turn.chat_id),
                use=summary_wish.use,
                threshold_pct=summary_wish.threshold_pct,
            )
    elif ending.state is TurnState.CANCELLED and ending.text.strip():
        await _store_partial_answer(session, turn, ending)
    return Finalized(turn, selected_model, ending)


def _columns(ending: Ending) -> dict[str, Any]:
    return {
        "state": ending.state,
        "error_code": ending.error_code,
        "error_detail": ending.error_detail,
        "cancel_trigger": func.coalesce(Turn.cancel_trigger, ending.trigger),
        "completion_signal": ending.completion_signal,
        "provider_response_id": _short(ending.response_id),
    }


async def _store_partial_answer(session: AsyncSession, turn: Turn, ending: Ending) -> None:
    """What had been shown of a stopped turn; losing it must not keep the turn from ending."""
    try:
        async with session.begin_nested():
            await _store_answer(session, turn, ending)
    except DBAPIError as error:
        if is_database_away(error):
            raise
        logger.exception("the partial answer could not be stored", extra={"turn_id": str(turn.id)})


async def _store_answer(session: AsyncSession, turn: Turn, ending: Ending) -> None:
    usage = ending.usage or TokenUsage()
    # History is ordered by time: the answer must come after its question whatever the clock does.
    created_at = func.greatest(func.clock_timestamp(), literal(turn.started_at) + text("interval '1 microsecond'"))
    await session.execute(
        insert(Message).values(
            id=turn.planned_message_id,
            tenant_id=turn.tenant_id,
            chat_id=turn.chat_id,
            request_id=turn.request_id,
            role="assistant",
            content=ending.text,
            request_kind="chat",
            provider_response_id=_short(ending.response_id),
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cache_read_input_tokens=usage.cache_read_input_tokens,
            cache_write_input_tokens=usage.cache_write_input_tokens,
            reasoning_tokens=usage.reasoning_tokens,
            model=turn.effective_model,
            citations=list(ending.citations) or None,
            created_at=created_at,
        )
    )
    await TurnRepository(session).set_assistant_message(turn.id, turn.planned_message_id)


def _short(response_id: str | None) -> str | None:
    """Provider ids have no promised length; the column has."""
    return None if response_id is None else response_id[:128]

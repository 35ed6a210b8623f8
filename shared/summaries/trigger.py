"""When a conversation is to be summarized, and up to where.

    urgent      the turn had to leave a recent message out
    proactive   no summary yet, and the turn's context has filled the threshold's share of the room beside the answer

A summary that exists is renewed only when messages are left out. The range is frozen in the transaction that completes
a turn: it begins after the frontier of the summary there is then, and ends with the newest message. What is written
later waits for the next cycle, and a job whose frontier has moved meanwhile does nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Select, bindparam, select
from sqlalchemy.ext.asyncio import AsyncSession

from shared.ids import ChatId, TenantId
from shared.messages.tables import Message
from shared.outbox import messages as outbox
from shared.summaries.tables import ThreadSummary


@dataclass(frozen=True, slots=True)
class ContextUse:
    """What the plan of a turn made of its budget."""

    assembled_tokens: int
    messages_truncated: bool
    context_window: int
    max_output_tokens: int

    def calls_for_summary(self, *, has_summary: bool, threshold_pct: int) -> bool:
        if self.messages_truncated:
            return True
        threshold = (self.context_window - self.max_output_tokens) * threshold_pct // 100
        return not has_summary and self.assembled_tokens >= threshold


@dataclass(slots=True)
class SummaryWish:
    """What the finalization of a turn needs to decide on a summary, and what it has decided."""

    use: ContextUse
    threshold_pct: int
    is_granted: bool = False


@dataclass(frozen=True, slots=True, order=True)
class Frontier:
    """A place in a chat's history, which is ordered by time and id."""

    created_at: datetime
    message_id: UUID


def _find_range() -> Select[datetime | None, UUID | None, datetime, UUID]:
    newest = (
        select(Message.chat_id, Message.created_at, Message.id)
        .where(
            Message.chat_id == bindparam("chat"),
            Message.tenant_id == bindparam("tenant"),
            Message.request_id.is_not(None),
            Message.deleted_at.is_(None),
        )
        .order_by(Message.created_at.desc(), Message.id.desc())
        .limit(1)
        .subquery()
    )
    return select(
        ThreadSummary.summarized_up_to_created_at,
        ThreadSummary.summarized_up_to_message_id,
        newest.c.created_at,
        newest.c.id,
    ).select_from(newest.outerjoin(ThreadSummary, ThreadSummary.chat_id == newest.c.chat_id))


# Built once: it runs in the transaction that every long conversation's turn ends with.
_FIND_RANGE = _find_range()


async def schedule_summary(
    session: AsyncSession, *, tenant_id: TenantId, chat_id: ChatId, use: ContextUse, threshold_pct: int
) -> bool:
    """Ask for a summary of the chat if the completed turn calls for one; whether it was asked for.

    Belongs into the transaction that completes the turn, after its answer is stored and while the chat is locked.
    """
    if not use.calls_for_summary(has_summary=False, threshold_pct=threshold_pct):
        return False  # nor with a summary: no query
    row = (await session.execute(_FIND_RANGE, {"chat": chat_id, "tenant": tenant_id})).one_or_none()
    if row is None:
        return False
    base = None if row[0] is None or row[1] is None else Frontier(row[0], row[1])
    target = Frontier(row[2], row[3])
    if base == target or not use.calls_for_summary(has_summary=base is not None, threshold_pct=threshold_pct):
        return False
    session.add(
        outbox.thread_summary(
            chat_id,
            tenant_id=tenant_id,
            base=None if base is None else (base.created_at, base.message_id),
            target=(target.created_at, target.message_id),
        )
    )
    return True

"""Reads what a turn's plan is made of: the user's message and the recent ones before it."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import Select, bindparam, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from shared.messages.tables import Message
from shared.turns.context import PlannedMessage


def _history() -> Select[str, str, UUID | None]:
    own = (
        select(Message.created_at, Message.id)
        .where(
            Message.chat_id == bindparam("chat"),
            Message.request_id == bindparam("request"),
            Message.role == "user",
            Message.deleted_at.is_(None),
        )
        .subquery()
    )
    return (
        select(Message.role, Message.content, Message.request_id)
        .join(own, tuple_(Message.created_at, Message.id) <= tuple_(own.c.created_at, own.c.id))
        .where(
            Message.chat_id == bindparam("chat"),
            Message.request_id.is_not(None),
            Message.deleted_at.is_(None),
            Message.is_compressed.is_(False),
            Message.role != "system",
        )
        .order_by(Message.created_at.desc(), Message.id.desc())
        .limit(bindparam("at_most"))
    )


_HISTORY = _history()


async def load_history(
    session: AsyncSession, *, chat_id: UUID, request_id: UUID, recent_limit: int
) -> tuple[str, list[PlannedMessage]]:
    """The user's text, and at most `recent_limit` live messages before it, oldest first.

    Raises:
        LookupError: the turn has no live user message: it was deleted.
    """
    values = {"chat": chat_id, "request": request_id, "at_most": recent_limit + 1}
    rows = (await session.execute(_HISTORY, values)).all()
    if not rows or rows[0].request_id != request_id:
        raise LookupError("the turn's user message is gone")
    recent = [PlannedMessage("user" if row.role == "user" else "assistant", row.content) for row in rows[:0:-1]]
    return rows[0].content, recent

"""Statements on `thread_summaries`, whose rows only ever change by compare-and-set on their frontier."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import ColumnElement, ScalarSelect, bindparam, func, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from shared.chats.tables import Chat
from shared.ids import ChatId, TenantId, new_uuid7
from shared.messages.tables import Message
from shared.summaries.tables import ThreadSummary
from shared.summaries.trigger import Frontier

_FIND = select(ThreadSummary).where(
    ThreadSummary.chat_id == bindparam("chat"), ThreadSummary.tenant_id == bindparam("tenant")
)


def estimate_of_chat() -> ScalarSelect[int]:
    """The tokens of the chat's summary, null without one, as a column of a statement about `chats`."""
    return (
        select(ThreadSummary.token_estimate).where(ThreadSummary.chat_id == Chat.id).correlate(Chat).scalar_subquery()
    )


class SummaryRepository:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def find(self, chat_id: ChatId, *, tenant_id: TenantId) -> ThreadSummary | None:
        return (await self._session.execute(_FIND, {"chat": chat_id, "tenant": tenant_id})).scalar_one_or_none()

    async def advance(
        self,
        chat_id: ChatId,
        *,
        tenant_id: TenantId,
        base: Frontier | None,
        target: Frontier,
        text: str,
        token_estimate: int,
    ) -> bool:
        """Compare-and-set: the summary of everything up to `target`, if the stored one still ends at `base`."""
        now = func.clock_timestamp()
        values = {
            "summary_text": text,
            "summarized_up_to_created_at": target.created_at,
            "summarized_up_to_message_id": target.message_id,
            "token_estimate": token_estimate,
            "updated_at": now,
        }
        if base is None:
            statement = (
                insert(ThreadSummary)
                .values(id=new_uuid7(), tenant_id=tenant_id, chat_id=chat_id, created_at=now, **values)
                .on_conflict_do_nothing(index_elements=["chat_id"])
                .returning(ThreadSummary.id)
            )
            return await self._session.scalar(statement) is not None
        moved = (
            update(ThreadSummary)
            .where(
                ThreadSummary.chat_id == chat_id,
                ThreadSummary.tenant_id == tenant_id,
                ThreadSummary.summarized_up_to_created_at == base.created_at,
                ThreadSummary.summarized_up_to_message_id == base.message_id,
            )
            .values(**values)
            .returning(ThreadSummary.id)
        )
        return await self._session.scalar(moved) is not None

    async def mark_compressed(
        self, chat_id: ChatId, *, tenant_id: TenantId, base: Frontier | None, target: Frontier
    ) -> None:
        """Note that the live messages after `base` and up to `target` are told by the summary from now on."""
        place = tuple_(Message.created_at, Message.id)
        statement = update(Message).where(
            Message.tenant_id == tenant_id,
            Message.chat_id == chat_id,
            Message.deleted_at.is_(None),
            Message.is_compressed.is_(False),
            place <= _place(target),
        )
        if base is not None:
            statement = statement.where(place > _place(base))
        await self._session.execute(statement.values(is_compressed=True).execution_options(synchronize_session=False))


def _place(frontier: Frontier) -> ColumnElement[tuple[datetime, UUID]]:
    return tuple_(frontier.created_at, frontier.message_id)

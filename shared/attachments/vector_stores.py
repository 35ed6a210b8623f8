"""Statements on `chat_vector_stores`: one row per chat, whoever comes first.

The row comes before the store, so that of several only one asks the provider: it has claimed the creation until the
row has an id, or `ABANDONED_AFTER` is over. Then the next one takes the claim over under a new row id, and whoever
held it before, should it still live, finds its row gone and takes back what it has made. Time is the database's.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final
from uuid import UUID

from sqlalchemy import ColumnElement, and_, bindparam, delete, func, literal, null, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from shared.attachments.tables import ChatVectorStore
from shared.chats.tables import Chat
from shared.ids import ChatId, TenantId, new_uuid7

ABANDONED_AFTER: Final = timedelta(minutes=3)
"""Longer than the creation may take: a provider is given a minute to answer."""

_FIND = select(ChatVectorStore).where(
    ChatVectorStore.chat_id == bindparam("chat"), ChatVectorStore.tenant_id == bindparam("tenant")
)


class VectorStoreRepository:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def find(self, chat_id: ChatId, *, tenant_id: TenantId) -> ChatVectorStore | None:
        return (await self._session.execute(_FIND, {"chat": chat_id, "tenant": tenant_id})).scalar_one_or_none()

    async def claim(self, chat_id: ChatId, *, tenant_id: TenantId, backend: str) -> UUID | None:
        """The id of the row, if the creation of the store is the caller's now.

        None if the chat has a store, somebody else is creating it, or the chat is deleted. The chat's row is locked
        against its deletion, whose cleanup therefore sees the claim.
        """
        now = func.clock_timestamp()
        alive = (
            select(literal(new_uuid7()), Chat.tenant_id, Chat.id, null(), literal(backend), literal(0), now)
            .where(Chat.id == chat_id, Chat.tenant_id == tenant_id, Chat.deleted_at.is_(None))
            .with_for_update(read=True)
        )
        columns = ["id", "tenant_id", "chat_id", "vector_store_id", "provider", "file_count", "created_at"]
        new = insert(ChatVectorStore).from_select(columns, alive)
        statement = new.on_conflict_do_update(
            index_elements=["tenant_id", "chat_id"],
            set_={name: new.excluded[name] for name in ("id", "provider", "created_at")},
            where=and_(ChatVectorStore.vector_store_id.is_(None), ChatVectorStore.created_at < now - ABANDONED_AFTER),
        ).returning(ChatVectorStore.id)
        claimed: UUID | None = await self._session.scalar(statement)
        return claimed

    async def complete(self, claim: UUID, vector_store_id: str) -> bool:
        """Compare-and-set: the claimed store exists now. False if the claim was lost."""
        statement = update(ChatVectorStore).where(_is_held(claim)).values(vector_store_id=vector_store_id)
        return await self._session.scalar(statement.returning(ChatVectorStore.id)) is not None

    async def release(self, claim: UUID) -> None:
        """Let the next one try; nothing if the claim was lost."""
        await self._session.execute(delete(ChatVectorStore).where(_is_held(claim)))

    async def count_file(self, chat_id: ChatId, *, tenant_id: TenantId) -> None:
        statement = update(ChatVectorStore).where(
            ChatVectorStore.chat_id == chat_id, ChatVectorStore.tenant_id == tenant_id
        )
        await self._session.execute(statement.values(file_count=ChatVectorStore.file_count + 1))


def _is_held(claim: UUID) -> ColumnElement[bool]:
    return and_(ChatVectorStore.id == claim, ChatVectorStore.vector_store_id.is_(None))

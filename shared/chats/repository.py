"""Statements about chats. Each is scoped to tenant and owner; a soft-deleted chat does not exist."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import ColumnElement, ScalarSelect, Select, and_, func, literal, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from shared.chats.errors import ChatNotFoundError
from shared.chats.tables import Chat
from shared.ids import ChatId, TenantId, UserId
from shared.messages.tables import Message
from shared.turns.tables import Turn

Narrow = Callable[[Select[Chat, int, UUID]], Select[Chat, int, UUID]]
"""Cuts a list down to a page."""


@dataclass(frozen=True, slots=True)
class ChatOverview:
    """A chat with what is counted and looked up for its owner."""

    chat: Chat
    message_count: int
    running_request_id: UUID | None


class ChatRepository:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    def add(self, chat: Chat) -> None:
        self._session.add(chat)

    async def get_overview(self, chat_id: ChatId, *, tenant_id: TenantId, user_id: UserId) -> ChatOverview:
        """The chat as its owner sees it.

        Raises:
            ChatNotFoundError: absent, deleted or somebody else's.
        """
        statement = _overviews().where(_is_owned(tenant_id, user_id), Chat.id == chat_id)
        row = (await self._session.execute(statement)).one_or_none()
        if row is None:
            raise ChatNotFoundError
        return ChatOverview(*row)

    async def list_overviews(self, *, tenant_id: TenantId, user_id: UserId, narrow: Narrow) -> list[ChatOverview]:
        statement = narrow(_overviews().where(_is_owned(tenant_id, user_id)))
        return [ChatOverview(*row) for row in await self._session.execute(statement)]

    async def get_owned(self, chat_id: ChatId, *, tenant_id: TenantId, user_id: UserId) -> Chat:
        """The chat's row.

        Raises:
            ChatNotFoundError: absent, deleted or somebody else's.
        """
        return await self._get(select(Chat).where(_is_owned(tenant_id, user_id), Chat.id == chat_id))

    async def lock_owned(self, chat_id: ChatId, *, tenant_id: TenantId, user_id: UserId) -> Chat:
        """The chat's row, locked until the transaction ends: the first lock of whatever changes the chat's content.

        Raises:
            ChatNotFoundError: absent, deleted or somebody else's.
        """
        statement = select(Chat).where(_is_owned(tenant_id, user_id), Chat.id == chat_id)
        return await self._get(statement.with_for_update(key_share=True))

    async def rename(self, chat_id: ChatId, title: str, *, tenant_id: TenantId, user_id: UserId, now: datetime) -> None:
        """Give the chat another title.

        Raises:
            ChatNotFoundError: absent, deleted or somebody else's.
        """
        statement = (
            update(Chat)
            .where(_is_owned(tenant_id, user_id), Chat.id == chat_id)
            .values(title=title, updated_at=moved_to(now))
            .returning(Chat.id)
        )
        if await self._session.scalar(statement) is None:
            raise ChatNotFoundError

    async def soft_delete(self, chat_id: ChatId, *, tenant_id: TenantId, user_id: UserId, now: datetime) -> None:
        """Make the chat invisible.

        Raises:
            ChatNotFoundError: absent, deleted already or somebody else's.
        """
        statement = (
            update(Chat)
            .where(_is_owned(tenant_id, user_id), Chat.id == chat_id)
            .values(deleted_at=now, updated_at=moved_to(now))
            .returning(Chat.id)
        )
        if await self._session.scalar(statement) is None:
            raise ChatNotFoundError

    async def _get(self, statement: Select[Chat]) -> Chat:
        chat = await self._session.scalar(statement)
        if chat is None:
            raise ChatNotFoundError
        return chat


def moved_to(now: datetime) -> ColumnElement[datetime]:
    """The new `updated_at` of a chat: `now`, but always later than before, whichever replica's clock is behind."""
    return func.greatest(literal(now), Chat.updated_at + timedelta(microseconds=1))


def _is_owned(tenant_id: TenantId, user_id: UserId) -> ColumnElement[bool]:
    return and_(Chat.tenant_id == tenant_id, Chat.user_id == user_id, Chat.deleted_at.is_(None))


def _overviews() -> Select[Chat, int, UUID]:
    return select(Chat, _message_count(), _running_request_id())


def _message_count() -> ScalarSelect[int]:
    return (
        select(func.count())
        .select_from(Message)
        .where(
            Message.chat_id == Chat.id,
            Message.tenant_id == Chat.tenant_id,
            Message.request_id.is_not(None),
            Message.deleted_at.is_(None),
        )
        .correlate(Chat)
        .scalar_subquery()
    )


def _running_request_id() -> ScalarSelect[UUID]:
    return (
        select(Turn.request_id)
        .where(
            Turn.chat_id == Chat.id,
            Turn.tenant_id == Chat.tenant_id,
            Turn.state == "running",
            Turn.deleted_at.is_(None),
        )
        .correlate(Chat)
        .scalar_subquery()
    )

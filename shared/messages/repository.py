"""Statements about messages, which are reached through a chat that the caller has found to be the user's."""

from __future__ import annotations

from collections.abc import Callable, Collection
from itertools import groupby
from operator import attrgetter
from uuid import UUID

from sqlalchemy import ColumnElement, Select, and_, select
from sqlalchemy.ext.asyncio import AsyncSession

from shared.attachments.tables import Attachment
from shared.ids import ChatId, TenantId, UserId
from shared.messages.tables import Message, MessageAttachment
from shared.reactions.tables import MessageReaction

Narrow = Callable[[Select[Message]], Select[Message]]
"""Cuts a list down to a page."""


class MessageRepository:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def list_visible(self, chat_id: ChatId, *, tenant_id: TenantId, narrow: Narrow) -> list[Message]:
        """The messages that clients see: those of a turn that are not deleted, summarized ones included."""
        statement = select(Message).where(*_is_visible(chat_id, tenant_id))
        return list(await self._session.scalars(narrow(statement)))

    async def find_visible(self, message_id: UUID, *, chat_id: ChatId, tenant_id: TenantId) -> Message | None:
        """One message that clients see."""
        statement = select(Message).where(Message.id == message_id, *_is_visible(chat_id, tenant_id))
        return await self._session.scalar(statement)

    async def attachments_of(
        self, message_ids: Collection[UUID], *, chat_id: ChatId, tenant_id: TenantId
    ) -> dict[UUID, list[Attachment]]:
        """The live attachments of each message that has any, in the order they were attached."""
        statement = (
            select(MessageAttachment.message_id, Attachment)
            .join(Attachment, _is_attached())
            .where(
                MessageAttachment.tenant_id == tenant_id,
                MessageAttachment.chat_id == chat_id,
                MessageAttachment.message_id.in_(message_ids),
                Attachment.tenant_id == tenant_id,
                Attachment.deleted_at.is_(None),
            )
            .order_by(MessageAttachment.message_id, MessageAttachment.created_at, MessageAttachment.attachment_id)
        )
        rows = await self._session.execute(statement)
        return {
            message_id: [attachment for _, attachment in group]
            for message_id, group in groupby(rows, attrgetter("message_id"))
        }

    async def reactions_of(
        self, message_ids: Collection[UUID], *, chat_id: ChatId, tenant_id: TenantId, user_id: UserId
    ) -> dict[UUID, str]:
        """The user's reaction to each message that has one."""
        statement = select(MessageReaction.message_id, MessageReaction.reaction).where(
            MessageReaction.tenant_id == tenant_id,
            MessageReaction.chat_id == chat_id,
            MessageReaction.user_id == user_id,
            MessageReaction.message_id.in_(message_ids),
        )
        return {row.message_id: row.reaction for row in await self._session.execute(statement)}


def _is_visible(chat_id: ChatId, tenant_id: TenantId) -> tuple[ColumnElement[bool], ...]:
    return (
        Message.tenant_id == tenant_id,
        Message.chat_id == chat_id,
        Message.request_id.is_not(None),
        Message.deleted_at.is_(None),
    )


def _is_attached() -> ColumnElement[bool]:
    return and_(Attachment.id == MessageAttachment.attachment_id, Attachment.chat_id == MessageAttachment.chat_id)

"""Statements about reactions. A message has at most one of each user, and is reached through a chat of that user."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import delete
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from shared.ids import ChatId, TenantId, UserId, new_uuid7
from shared.reactions.tables import MessageReaction


class ReactionRepository:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def put(
        self,
        message_id: UUID,
        reaction: str,
        *,
        chat_id: ChatId,
        tenant_id: TenantId,
        user_id: UserId,
        now: datetime,
    ) -> None:
        """Set the user's reaction; an earlier one keeps its id and takes the new value and time."""
        row = insert(MessageReaction).values(
            id=new_uuid7(),
            tenant_id=tenant_id,
            chat_id=chat_id,
            message_id=message_id,
            user_id=user_id,
            reaction=reaction,
            created_at=now,
        )
        await self._session.execute(
            row.on_conflict_do_update(
                index_elements=["message_id", "user_id"],
                set_={"reaction": row.excluded.reaction, "created_at": row.excluded.created_at},
            )
        )

    async def remove(self, message_id: UUID, *, chat_id: ChatId, tenant_id: TenantId, user_id: UserId) -> None:
        """Take the user's reaction away, if there is one."""
        await self._session.execute(
            delete(MessageReaction).where(
                MessageReaction.message_id == message_id,
                MessageReaction.user_id == user_id,
                MessageReaction.chat_id == chat_id,
                MessageReaction.tenant_id == tenant_id,
            )
        )

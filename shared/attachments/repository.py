from __future__ import annotations

from datetime import datetime

from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncSession

from shared.attachments.tables import Attachment
from shared.ids import ChatId, TenantId


class AttachmentRepository:
    """Statements about attachments, which are reached through a chat that the caller has found to be the user's."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def mark_for_cleanup(self, chat_id: ChatId, *, tenant_id: TenantId, now: datetime) -> None:
        """Have the provider's copies of the chat's live attachments removed, by whoever delivers its cleanup."""
        await self._session.execute(
            update(Attachment)
            .where(
                Attachment.tenant_id == tenant_id,
                Attachment.chat_id == chat_id,
                Attachment.deleted_at.is_(None),
            )
            .values(cleanup_status="pending", cleanup_updated_at=now, updated_at=now)
        )

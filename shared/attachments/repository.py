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
        """Have the provider's copies of the chat's attachments removed, by whoever delivers its cleanup.

        Those that were deleted before, and whose own cleanup has not ended, are among them: it leaves them alone now.
        """
        await self._session.execute(
            update(Attachment)
            .where(
                Attachment.tenant_id == tenant_id,
                Attachment.chat_id == chat_id,
                Attachment.cleanup_status.is_(None),
            )
            .values(cleanup_status="pending", cleanup_updated_at=now, updated_at=now)
        )

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import ColumnElement, and_, case, exists, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from shared.attachments.errors import AttachmentNotFoundError
from shared.attachments.tables import Attachment
from shared.ids import ChatId, TenantId, UserId
from shared.messages.tables import MessageAttachment

UploadFailure = Literal["upload_failed", "file_too_large", "storage_limit_exceeded"]


@dataclass(frozen=True, slots=True)
class Holdings:
    """What a chat holds: live attachments that have not failed, those on their way included."""

    documents: int
    size_bytes: int


class AttachmentRepository:
    """Statements about attachments, which are reached through a chat that the caller has found to be the user's.

    What changes the holdings of a chat is done under the lock of the chat's row.
    """

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    def add(self, attachment: Attachment) -> None:
        self._session.add(attachment)

    async def find(self, attachment_id: UUID, *, chat_id: ChatId, tenant_id: TenantId) -> Attachment | None:
        """One attachment of the chat, deleted or not."""
        statement = select(Attachment).where(Attachment.id == attachment_id, _is_of_chat(chat_id, tenant_id))
        return await self._session.scalar(statement)

    async def get(self, attachment_id: UUID, *, chat_id: ChatId, tenant_id: TenantId) -> Attachment:
        """One attachment of the chat, deleted or not.

        Raises:
            AttachmentNotFoundError: the chat has none by that id.
        """
        found = await self.find(attachment_id, chat_id=chat_id, tenant_id=tenant_id)
        if found is None:
            raise AttachmentNotFoundError
        return found

    async def holdings_of(self, chat_id: ChatId, *, tenant_id: TenantId) -> Holdings:
        statement = select(
            func.count().filter(Attachment.attachment_kind == "document"),
            func.coalesce(func.sum(Attachment.size_bytes), 0),
        ).where(_is_of_chat(chat_id, tenant_id), Attachment.deleted_at.is_(None), Attachment.status != "failed")
        documents, size_bytes = (await self._session.execute(statement)).one()
        return Holdings(documents, int(size_bytes))

    async def bytes_uploaded_since(self, start: datetime, *, tenant_id: TenantId, user_id: UserId) -> int:
        """By one user, in all chats, what was deleted again included."""
        statement = select(func.coalesce(func.sum(Attachment.size_bytes), 0)).where(
            Attachment.tenant_id == tenant_id,
            Attachment.uploaded_by_user_id == user_id,
            Attachment.created_at >= start,
            Attachment.status != "failed",
        )
        return int(await self._session.scalar(statement) or 0)

    async def mark_uploaded(
        self, attachment_id: UUID, *, tenant_id: TenantId, provider_file_id: str, size_bytes: int, now: datetime
    ) -> bool:
        """`pending -> uploaded`; False if it was deleted meanwhile, with its chat or by itself, or given up."""
        return await self._change(
            attachment_id,
            tenant_id,
            "pending",
            Attachment.deleted_at.is_(None),
            Attachment.cleanup_status.is_(None),
            status="uploaded",
            provider_file_id=provider_file_id,
            size_bytes=size_bytes,
            updated_at=now,
        )

    async def mark_ready(self, attachment_id: UUID, *, tenant_id: TenantId, now: datetime, **thumbnail: Any) -> bool:
        """`uploaded -> ready`, of what needs no indexing.

        Args:
            thumbnail: columns of an image's thumbnail, if it has one.
        """
        return await self._change(attachment_id, tenant_id, "uploaded", status="ready", updated_at=now, **thumbnail)

    async def give_up(
        self,
        attachment_id: UUID,
        error_code: UploadFailure,
        *,
        tenant_id: TenantId,
        provider_file_id: str | None,
        is_nowhere: bool,
        now: datetime,
    ) -> bool:
        """`pending -> failed`, and to be seen as that; what the provider has of it is handed to the cleanup.

        Args:
            is_nowhere: it has nothing. Without a time at which that was cleaned up, nobody will look again.
        """
        of_file: dict[str, Any] = {}
        if is_nowhere:
            of_file = {"cleanup_status": func.coalesce(Attachment.cleanup_status, "done")}
        elif provider_file_id is not None:
            of_file = {
                "provider_file_id": provider_file_id,
                "cleanup_status": "pending",
                "cleanup_updated_at": now,
            }
        return await self._change(
            attachment_id, tenant_id, "pending", status="failed", error_code=error_code, updated_at=now, **of_file
        )

    async def delete_unreferenced(
        self, attachment_id: UUID, *, chat_id: ChatId, tenant_id: TenantId, now: datetime
    ) -> Attachment | None:
        """Delete it softly and have the provider's file removed, unless it is; None if it is deleted already, or a
        message refers to it, be that deleted or not.
        """
        is_removed = Attachment.cleanup_status == "done"
        is_referenced = exists().where(
            MessageAttachment.chat_id == chat_id, MessageAttachment.attachment_id == attachment_id
        )
        return await self._session.scalar(
            update(Attachment)
            .where(
                Attachment.id == attachment_id,
                _is_of_chat(chat_id, tenant_id),
                Attachment.deleted_at.is_(None),
                ~is_referenced,
            )
            .values(
                deleted_at=now,
                cleanup_status=case((is_removed, "done"), else_="pending"),
                cleanup_updated_at=case((is_removed, Attachment.cleanup_updated_at), else_=now),
                updated_at=now,
            )
            .returning(Attachment)
        )

    async def mark_for_cleanup(self, chat_id: ChatId, *, tenant_id: TenantId, now: datetime) -> None:
        """Have the provider's copies of the chat's attachments removed, by whoever delivers its cleanup.

        Those that were deleted before, and whose own cleanup has not ended, are among them: it leaves them alone now.
        """
        await self._session.execute(
            update(Attachment)
            .where(_is_of_chat(chat_id, tenant_id), Attachment.cleanup_status.is_(None))
            .values(cleanup_status="pending", cleanup_updated_at=now, updated_at=now)
        )

    async def _change(
        self,
        attachment_id: UUID,
        tenant_id: TenantId,
        from_status: str,
        *conditions: ColumnElement[bool],
        **values: Any,
    ) -> bool:
        """Compare and set; whether it was there to be changed."""
        statement = (
            update(Attachment)
            .where(
                Attachment.id == attachment_id,
                Attachment.tenant_id == tenant_id,
                Attachment.status == from_status,
                *conditions,
            )
            .values(**values)
            .returning(Attachment.id)
            .execution_options(synchronize_session=False)
        )
        return await self._session.scalar(statement) is not None


def _is_of_chat(chat_id: ChatId, tenant_id: TenantId) -> ColumnElement[bool]:
    return and_(Attachment.chat_id == chat_id, Attachment.tenant_id == tenant_id)

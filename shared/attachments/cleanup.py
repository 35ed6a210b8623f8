"""Statements of the cleanup: what deleted chats, and deleted or failed attachments, still have at their providers.

`cleanup_status` is null while nobody has asked for it, then `pending`, and ends as `done` or `failed`. A change is a
compare-and-set on that, so whoever comes late, or twice, changes nothing. Time is the database's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from sqlalchemy import ColumnElement, and_, case, delete, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from shared.attachments.tables import Attachment, ChatVectorStore
from shared.chats.tables import Chat
from shared.ids import ChatId, TenantId

_IS_OPEN: Final = or_(Attachment.cleanup_status.is_(None), Attachment.cleanup_status == "pending")


@dataclass(frozen=True, slots=True)
class FileToRemove:
    """An attachment whose file is to go; it has none, or none that we know of, if `provider_file_id` is null."""

    attachment_id: UUID
    tenant_id: TenantId
    storage_backend: str
    provider_file_id: str | None
    attempts: int


@dataclass(frozen=True, slots=True)
class AttachmentToClean:
    """A single attachment whose file is to go, with what decides how."""

    file: FileToRemove
    cleanup_status: str | None
    is_in_use: bool
    """Neither deleted nor failed: its file must stay."""
    is_chat_deleted: bool
    vector_store_id: str | None
    """The chat's, as it is now."""


class CleanupRepository:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def is_chat_deleted(self, chat_id: ChatId, *, tenant_id: TenantId) -> bool:
        """False of a chat that does not exist, too."""
        statement = select(Chat.deleted_at).where(Chat.id == chat_id, Chat.tenant_id == tenant_id)
        return await self._session.scalar(statement) is not None

    async def list_pending(self, chat_id: ChatId, *, tenant_id: TenantId) -> list[FileToRemove]:
        rows = await self._session.scalars(
            select(Attachment)
            .where(_of_chat(chat_id, tenant_id), Attachment.cleanup_status == "pending")
            .order_by(Attachment.created_at, Attachment.id)
        )
        return [_file_of(row) for row in rows]

    async def count_left(self, chat_id: ChatId, *, tenant_id: TenantId) -> tuple[int, int]:
        """How many of the chat's files are `pending`, and how many `failed`."""
        pending = func.count().filter(Attachment.cleanup_status == "pending")
        failed = func.count().filter(Attachment.cleanup_status == "failed")
        return (await self._session.execute(select(pending, failed).where(_of_chat(chat_id, tenant_id)))).one()

    async def find_attachment(
        self, attachment_id: UUID, *, chat_id: ChatId, tenant_id: TenantId
    ) -> AttachmentToClean | None:
        """None if the chat is gone, and all that was its with it."""
        row = (
            await self._session.execute(
                select(Attachment, Chat.deleted_at, ChatVectorStore.vector_store_id)
                .join(Chat, Chat.id == Attachment.chat_id)
                .outerjoin(
                    ChatVectorStore,
                    and_(
                        ChatVectorStore.tenant_id == Attachment.tenant_id,
                        ChatVectorStore.chat_id == Attachment.chat_id,
                        ChatVectorStore.provider == Attachment.storage_backend,
                    ),
                )
                .where(Attachment.id == attachment_id, _of_chat(chat_id, tenant_id))
            )
        ).one_or_none()
        if row is None:
            return None
        attachment, chat_deleted_at, vector_store_id = row
        return AttachmentToClean(
            file=_file_of(attachment),
            cleanup_status=attachment.cleanup_status,
            is_in_use=attachment.deleted_at is None and attachment.status != "failed",
            is_chat_deleted=chat_deleted_at is not None,
            vector_store_id=vector_store_id,
        )

    async def mark_done(self, file: FileToRemove) -> bool:
        """Nothing of it is left at the provider; False if somebody else has ended its cleanup."""
        changed = await self._session.scalar(
            update(Attachment)
            .where(Attachment.id == file.attachment_id, Attachment.tenant_id == file.tenant_id, _IS_OPEN)
            .values(cleanup_status="done", cleanup_updated_at=func.now(), updated_at=func.now())
            .returning(Attachment.id)
        )
        return changed is not None

    async def count_failure(self, file: FileToRemove, *, error: str, max_attempts: int) -> str | None:
        """Note a failed try, the last one as `failed`; the new status, None if this try was not the one to count.

        Of several who tried at the same time one counts.
        """
        attempts = Attachment.cleanup_attempts + 1
        status: str | None = await self._session.scalar(
            update(Attachment)
            .where(
                Attachment.id == file.attachment_id,
                Attachment.tenant_id == file.tenant_id,
                Attachment.cleanup_attempts == file.attempts,
                _IS_OPEN,
            )
            .values(
                cleanup_attempts=attempts,
                cleanup_status=case((attempts >= max_attempts, "failed"), else_="pending"),
                last_cleanup_error=error,
                cleanup_updated_at=func.now(),
                updated_at=func.now(),
            )
            .returning(Attachment.cleanup_status)
        )
        return status

    async def reopen(self, *, chat_id: UUID, attachment_id: UUID | None = None) -> None:
        """Give the chat's files that failed, or the one of that attachment, all their tries anew."""
        statement = update(Attachment).where(Attachment.chat_id == chat_id, Attachment.cleanup_status == "failed")
        if attachment_id is not None:
            statement = statement.where(Attachment.id == attachment_id)
        await self._session.execute(
            statement.values(
                cleanup_status="pending", cleanup_attempts=0, cleanup_updated_at=func.now(), updated_at=func.now()
            )
        )

    async def find_vector_store(self, chat_id: ChatId, *, tenant_id: TenantId) -> ChatVectorStore | None:
        statement = select(ChatVectorStore).where(
            ChatVectorStore.tenant_id == tenant_id, ChatVectorStore.chat_id == chat_id
        )
        found: ChatVectorStore | None = await self._session.scalar(statement)
        return found

    async def drop_vector_store(self, store: ChatVectorStore) -> bool:
        """Delete the row; False if the store has been given its id meanwhile, and must be deleted first."""
        gone = await self._session.scalar(
            delete(ChatVectorStore)
            .where(
                ChatVectorStore.id == store.id,
                ChatVectorStore.vector_store_id.is_not_distinct_from(store.vector_store_id),
            )
            .returning(ChatVectorStore.id)
        )
        return gone is not None


def _of_chat(chat_id: ChatId, tenant_id: TenantId) -> ColumnElement[bool]:
    return and_(Attachment.tenant_id == tenant_id, Attachment.chat_id == chat_id)


def _file_of(row: Attachment) -> FileToRemove:
    return FileToRemove(
        attachment_id=row.id,
        tenant_id=TenantId(row.tenant_id),
        storage_backend=row.storage_backend,
        provider_file_id=row.provider_file_id,
        attempts=row.cleanup_attempts,
    )

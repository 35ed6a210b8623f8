from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, LargeBinary, String, Text, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from shared.db.base import Base, Count, UuidKey


class Attachment(Base):
    """A file of a chat: `pending` until the provider has it, `uploaded`, then `ready` or `failed`."""

    __tablename__ = "attachments"

    id: Mapped[UuidKey]
    tenant_id: Mapped[UUID]
    chat_id: Mapped[UUID] = mapped_column(ForeignKey("chats.id", ondelete="CASCADE"))
    uploaded_by_user_id: Mapped[UUID]
    filename: Mapped[str] = mapped_column(String(255))
    content_type: Mapped[str] = mapped_column(String(128))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    storage_backend: Mapped[str] = mapped_column(String(32))
    provider_file_id: Mapped[str | None] = mapped_column(String(128))
    status: Mapped[str] = mapped_column(String(16))
    error_code: Mapped[str | None] = mapped_column(String(64))
    attachment_kind: Mapped[str] = mapped_column(String(16))
    for_file_search: Mapped[bool] = mapped_column(server_default=text("false"))
    for_code_interpreter: Mapped[bool] = mapped_column(server_default=text("false"))
    doc_summary: Mapped[str | None] = mapped_column(Text)
    img_thumbnail: Mapped[bytes | None] = mapped_column(LargeBinary)
    img_thumbnail_width: Mapped[int | None]
    img_thumbnail_height: Mapped[int | None]
    summary_model: Mapped[str | None] = mapped_column(String(1024))
    summary_updated_at: Mapped[datetime | None]
    cleanup_status: Mapped[str | None] = mapped_column(String(16))
    cleanup_attempts: Mapped[Count]
    last_cleanup_error: Mapped[str | None] = mapped_column(Text)
    cleanup_updated_at: Mapped[datetime | None]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
    deleted_at: Mapped[datetime | None]

    __table_args__ = (
        Index("ix_attachments_tenant_id_chat_id", "tenant_id", "chat_id", postgresql_where=text("deleted_at IS NULL")),
        Index("ix_attachments_cleanup_status", "cleanup_status", postgresql_where=text("cleanup_status IS NOT NULL")),
        Index("ix_attachments_not_ready", "status", "updated_at", postgresql_where=text("status <> 'ready'")),
        UniqueConstraint("id", "chat_id"),
        Index("ix_attachments_chat_id_provider_file_id", "chat_id", "provider_file_id"),
        CheckConstraint("size_bytes >= 0", name="size_bytes"),
        CheckConstraint("status IN ('pending', 'uploaded', 'ready', 'failed')", name="status"),
        CheckConstraint("attachment_kind IN ('document', 'image')", name="attachment_kind"),
        CheckConstraint("attachment_kind <> 'image' OR doc_summary IS NULL", name="no_image_summary"),
        CheckConstraint("attachment_kind <> 'document' OR img_thumbnail IS NULL", name="no_document_thumbnail"),
        CheckConstraint("img_thumbnail_width >= 0", name="img_thumbnail_width"),
        CheckConstraint("img_thumbnail_height >= 0", name="img_thumbnail_height"),
        CheckConstraint("cleanup_status IN ('pending', 'done', 'failed')", name="cleanup_status"),
    )


class ChatVectorStore(Base):
    """The provider's vector store of a chat; `vector_store_id` is null while somebody creates it."""

    __tablename__ = "chat_vector_stores"

    id: Mapped[UuidKey]
    tenant_id: Mapped[UUID]
    chat_id: Mapped[UUID] = mapped_column(ForeignKey("chats.id", ondelete="CASCADE"))
    vector_store_id: Mapped[str | None] = mapped_column(String(128))
    provider: Mapped[str] = mapped_column(String(128))
    file_count: Mapped[Count]
    created_at: Mapped[datetime]

    __table_args__ = (UniqueConstraint("tenant_id", "chat_id"),)

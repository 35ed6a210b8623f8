from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, ForeignKeyConstraint, Index, String, Text, UniqueConstraint, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from shared.db.base import Base, BigCount, Count, UuidKey

COUNTERS = (
    "token_estimate",
    "input_tokens",
    "output_tokens",
    "cache_read_input_tokens",
    "cache_write_input_tokens",
    "reasoning_tokens",
)


class Message(Base):
    """Stored content with a role. It has no lifecycle: what happens to it happens to its turn."""

    __tablename__ = "messages"

    id: Mapped[UuidKey]
    tenant_id: Mapped[UUID]
    chat_id: Mapped[UUID] = mapped_column(ForeignKey("chats.id", ondelete="CASCADE"))
    request_id: Mapped[UUID | None]
    role: Mapped[str] = mapped_column(String(16))
    content: Mapped[str] = mapped_column(Text, server_default=text("''"))
    content_type: Mapped[str] = mapped_column(String(32), server_default=text("'text'"))
    token_estimate: Mapped[Count]
    provider_response_id: Mapped[str | None] = mapped_column(String(128))
    request_kind: Mapped[str | None] = mapped_column(String(16))
    features_used: Mapped[list[Any]] = mapped_column(server_default=text("'[]'::jsonb"))
    input_tokens: Mapped[BigCount]
    output_tokens: Mapped[BigCount]
    cache_read_input_tokens: Mapped[BigCount]
    cache_write_input_tokens: Mapped[BigCount]
    reasoning_tokens: Mapped[BigCount]
    model: Mapped[str | None] = mapped_column(String(1024))
    is_compressed: Mapped[bool] = mapped_column(server_default=text("false"))
    citations: Mapped[list[Any] | None] = mapped_column(JSONB(none_as_null=True))
    created_at: Mapped[datetime]
    deleted_at: Mapped[datetime | None]

    __table_args__ = (
        Index(
            "uq_messages_turn_role",
            "chat_id",
            "request_id",
            "role",
            unique=True,
            postgresql_where=text("request_id IS NOT NULL AND deleted_at IS NULL"),
        ),
        UniqueConstraint("id", "chat_id"),
        Index("ix_messages_history", "chat_id", "created_at", "id", postgresql_where=text("deleted_at IS NULL")),
        CheckConstraint("role IN ('user', 'assistant', 'system')", name="role"),
        CheckConstraint("content_type IN ('text', 'system', 'tool_call', 'tool_result')", name="content_type"),
        CheckConstraint(
            "request_kind IS NULL OR request_kind IN ('chat', 'summary', 'doc_summary')", name="request_kind"
        ),
        *(CheckConstraint(f"{name} >= 0", name=name) for name in COUNTERS),
    )


class MessageAttachment(Base):
    """Which attachments a message was sent with. Both ends must lie in the same chat."""

    __tablename__ = "message_attachments"

    tenant_id: Mapped[UUID]
    chat_id: Mapped[UUID] = mapped_column(primary_key=True)
    message_id: Mapped[UUID] = mapped_column(primary_key=True)
    attachment_id: Mapped[UUID] = mapped_column(primary_key=True)
    created_at: Mapped[datetime]

    __table_args__ = (
        ForeignKeyConstraint(["message_id", "chat_id"], ["messages.id", "messages.chat_id"], ondelete="CASCADE"),
        ForeignKeyConstraint(
            ["attachment_id", "chat_id"], ["attachments.id", "attachments.chat_id"], ondelete="CASCADE"
        ),
        Index("ix_message_attachments_tenant_id_chat_id", "tenant_id", "chat_id"),
        Index("ix_message_attachments_attachment_id_chat_id", "attachment_id", "chat_id"),
    )

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKeyConstraint, Index, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from shared.db.base import Base, UuidKey


class MessageReaction(Base):
    """One user's like or dislike of an assistant message."""

    __tablename__ = "message_reactions"

    id: Mapped[UuidKey]
    tenant_id: Mapped[UUID]
    chat_id: Mapped[UUID]
    message_id: Mapped[UUID]
    user_id: Mapped[UUID]
    reaction: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[datetime]

    __table_args__ = (
        UniqueConstraint("message_id", "user_id"),
        ForeignKeyConstraint(["message_id", "chat_id"], ["messages.id", "messages.chat_id"], ondelete="CASCADE"),
        Index("ix_message_reactions_chat_id", "chat_id"),
        CheckConstraint("reaction IN ('like', 'dislike')", name="reaction"),
    )

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import ForeignKey, Text
from sqlalchemy.orm import Mapped, mapped_column

from shared.db.base import Base, Count, UuidKey


class ThreadSummary(Base):
    """The compressed older part of a chat, up to and including the message of its frontier."""

    __tablename__ = "thread_summaries"

    id: Mapped[UuidKey]
    tenant_id: Mapped[UUID]
    chat_id: Mapped[UUID] = mapped_column(ForeignKey("chats.id", ondelete="CASCADE"), unique=True)
    summary_text: Mapped[str] = mapped_column(Text)
    summarized_up_to_created_at: Mapped[datetime]
    summarized_up_to_message_id: Mapped[UUID]
    token_estimate: Mapped[Count]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final
from uuid import UUID

from sqlalchemy import Index, String, text
from sqlalchemy.orm import Mapped, mapped_column

from shared.db.base import Base, UuidKey

NO_GRACE: Final = datetime(1970, 1, 1, tzinfo=UTC)
"""The `deleted_at` of a deleted chat whose grace is over at once, however long `retention.chat_grace_days` is."""


class Chat(Base):
    """A linear conversation of one user with one selected model."""

    __tablename__ = "chats"

    id: Mapped[UuidKey]
    tenant_id: Mapped[UUID]
    user_id: Mapped[UUID]
    model: Mapped[str] = mapped_column(String(1024))
    title: Mapped[str | None] = mapped_column(String(255))
    is_temporary: Mapped[bool] = mapped_column(server_default=text("false"))
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    deleted_at: Mapped[datetime | None]

    __table_args__ = (
        Index(
            "ix_chats_owner_newest",
            "tenant_id",
            "user_id",
            text("updated_at DESC"),
            text("id DESC"),
            postgresql_where=text("deleted_at IS NULL"),
        ),
        Index("ix_chats_deleted_at", "deleted_at", postgresql_where=text("deleted_at IS NOT NULL")),
    )

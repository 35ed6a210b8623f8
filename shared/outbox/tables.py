from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Index, String, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from shared.db.base import Base, Count


class OutboxMessage(Base):
    """A message written with the change it tells of, delivered at least once and in order per partition key."""

    __tablename__ = "outbox_messages"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=True)
    queue: Mapped[str] = mapped_column(String(64))
    partition_key: Mapped[str] = mapped_column(String(64))
    payload_type: Mapped[str] = mapped_column(String(64))
    payload: Mapped[dict[str, Any]]
    dedupe_key: Mapped[str | None] = mapped_column(String(160))
    attempts: Mapped[Count]
    available_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
    locked_by: Mapped[str | None] = mapped_column(String(128))
    locked_until: Mapped[datetime | None]
    last_error: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime]
    delivered_at: Mapped[datetime | None]

    __table_args__ = (
        Index(
            "uq_outbox_messages_queue_dedupe_key",
            "queue",
            "dedupe_key",
            unique=True,
            postgresql_where=text("dedupe_key IS NOT NULL"),
        ),
        Index("ix_outbox_messages_due", "queue", "available_at", "id", postgresql_where=text("delivered_at IS NULL")),
    )


class OutboxDeadLetter(Base):
    """A message that could not be delivered, kept until somebody replays or resolves it."""

    __tablename__ = "outbox_dead_letters"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    queue: Mapped[str] = mapped_column(String(64))
    partition_key: Mapped[str] = mapped_column(String(64))
    payload_type: Mapped[str] = mapped_column(String(64))
    payload: Mapped[dict[str, Any]]
    dedupe_key: Mapped[str | None] = mapped_column(String(160))
    attempts: Mapped[Count]
    created_at: Mapped[datetime]
    reason: Mapped[str | None] = mapped_column(Text)
    failed_at: Mapped[datetime]
    resolved_at: Mapped[datetime | None]

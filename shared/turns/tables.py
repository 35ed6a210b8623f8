from __future__ import annotations

from datetime import date, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, String, Text, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from shared.db.base import Base, Count, UuidKey


class Turn(Base):
    """One user-initiated provider invocation, keyed by `(chat_id, request_id)`.

    The row is the truth about the turn and the outbox of its job: whatever a crash loses elsewhere is found again
    from here. `lease_expires_at` null means that no worker holds the turn. The reserve and decision columns never
    change after the insert.
    """

    __tablename__ = "chat_turns"

    id: Mapped[UuidKey]
    tenant_id: Mapped[UUID]
    chat_id: Mapped[UUID] = mapped_column(ForeignKey("chats.id", ondelete="CASCADE"))
    request_id: Mapped[UUID]
    requester_type: Mapped[str] = mapped_column(String(16))
    requester_user_id: Mapped[UUID | None]
    state: Mapped[str] = mapped_column(String(16))

    provider_name: Mapped[str | None] = mapped_column(String(128))
    provider_response_id: Mapped[str | None] = mapped_column(String(128))
    assistant_message_id: Mapped[UUID | None] = mapped_column(ForeignKey("messages.id", ondelete="SET NULL"))
    planned_message_id: Mapped[UUID]
    error_code: Mapped[str | None] = mapped_column(String(64))
    error_detail: Mapped[str | None] = mapped_column(Text)
    completion_signal: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))

    reserve_tokens: Mapped[int | None] = mapped_column(BigInteger)
    max_output_tokens_applied: Mapped[int | None]
    reserved_credits_micro: Mapped[int | None] = mapped_column(BigInteger)
    policy_version_applied: Mapped[int | None] = mapped_column(BigInteger)
    effective_model: Mapped[str | None] = mapped_column(String(1024))
    minimal_generation_floor_applied: Mapped[int | None]
    daily_period_start: Mapped[date | None]
    monthly_period_start: Mapped[date | None]
    quota_decision: Mapped[str | None] = mapped_column(String(16))
    downgrade_from: Mapped[str | None] = mapped_column(String(1024))
    downgrade_reason: Mapped[str | None] = mapped_column(String(32))

    web_search_enabled: Mapped[bool] = mapped_column(server_default=text("false"))
    file_search_included: Mapped[bool] = mapped_column(server_default=text("false"))
    code_interpreter_included: Mapped[bool] = mapped_column(server_default=text("false"))
    web_search_completed_count: Mapped[Count]
    code_interpreter_completed_count: Mapped[Count]
    image_inputs: Mapped[Count]
    summary_token_estimate: Mapped[int | None]

    on_disconnect: Mapped[str | None] = mapped_column(String(8))
    on_worker_loss: Mapped[str | None] = mapped_column(String(8))
    cancel_requested_at: Mapped[datetime | None]
    cancel_trigger: Mapped[str | None] = mapped_column(String(16))

    attempt: Mapped[Count]
    lost_attempts: Mapped[Count]
    lease_owner: Mapped[str | None] = mapped_column(String(128))
    lease_expires_at: Mapped[datetime | None]

    started_at: Mapped[datetime]
    last_progress_at: Mapped[datetime | None]
    completed_at: Mapped[datetime | None]
    updated_at: Mapped[datetime]
    deleted_at: Mapped[datetime | None]
    replaced_by_request_id: Mapped[UUID | None]

    __table_args__ = (
        Index("uq_chat_turns_chat_id_request_id", "chat_id", "request_id", unique=True),
        Index(
            "uq_chat_turns_running",
            "chat_id",
            unique=True,
            postgresql_where=text("state = 'running' AND deleted_at IS NULL"),
        ),
        Index(
            "ix_chat_turns_newest",
            "chat_id",
            text("started_at DESC"),
            text("id DESC"),
            postgresql_where=text("deleted_at IS NULL"),
        ),
        Index(
            "ix_chat_turns_progress",
            "last_progress_at",
            postgresql_where=text("state = 'running' AND deleted_at IS NULL"),
        ),
        Index(
            "ix_chat_turns_lease",
            "lease_expires_at",
            postgresql_where=text("state = 'running' AND deleted_at IS NULL"),
        ),
        CheckConstraint("requester_type IN ('user', 'system')", name="requester_type"),
        CheckConstraint("state IN ('running', 'completed', 'failed', 'cancelled')", name="state"),
        CheckConstraint("(state = 'running') = (completed_at IS NULL)", name="terminal_iff_completed_at"),
        CheckConstraint("state <> 'running' OR last_progress_at IS NOT NULL", name="running_has_progress"),
    )

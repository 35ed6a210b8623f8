from __future__ import annotations

from datetime import date, datetime
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, String, UniqueConstraint
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from shared.db.base import Base, BigCount, Count, UuidKey

COUNTERS = (
    "spent_credits_micro",
    "reserved_credits_micro",
    "calls",
    "input_tokens",
    "output_tokens",
    "file_search_calls",
    "web_search_calls",
    "code_interpreter_calls",
    "rag_retrieval_calls",
    "image_inputs",
    "image_upload_bytes",
)


class QuotaUsage(Base):
    """What a user has spent and reserved in one bucket and one UTC calendar period; a missing row means zeros."""

    __tablename__ = "quota_usage"

    id: Mapped[UuidKey]
    tenant_id: Mapped[UUID]
    user_id: Mapped[UUID]
    period_type: Mapped[str] = mapped_column(String(16))
    period_start: Mapped[date]
    bucket: Mapped[str] = mapped_column(String(32))
    spent_credits_micro: Mapped[BigCount]
    reserved_credits_micro: Mapped[BigCount]
    calls: Mapped[Count]
    input_tokens: Mapped[BigCount]
    output_tokens: Mapped[BigCount]
    file_search_calls: Mapped[Count]
    web_search_calls: Mapped[Count]
    code_interpreter_calls: Mapped[Count]
    rag_retrieval_calls: Mapped[Count]
    image_inputs: Mapped[Count]
    image_upload_bytes: Mapped[BigCount]
    updated_at: Mapped[datetime]

    __table_args__ = (
        UniqueConstraint("tenant_id", "user_id", "period_type", "period_start", "bucket", name="uq_quota_usage_bucket"),
        CheckConstraint("period_type IN ('daily', 'monthly')", name="period_type"),
        CheckConstraint("bucket IN ('total', 'tier:premium')", name="bucket"),
        *(CheckConstraint(f"{name} >= 0", name=name) for name in COUNTERS),
    )


class PolicySnapshot(Base):
    """A catalog as it was under its version, so that a turn settles by the policy it was accepted under."""

    __tablename__ = "policy_snapshots"

    policy_version: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    payload: Mapped[dict[str, object]] = mapped_column(JSONB)
    content_hash: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime]

"""What goes into the outbox: one function per kind of message, which fixes its queue and payload."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from shared.clock import rfc3339
from shared.ids import ChatId, TenantId, new_uuid4
from shared.outbox.tables import OutboxMessage

USAGE_SNAPSHOT: Final = "usage_snapshot"
AUDIT: Final = "audit"
ATTACHMENT_CLEANUP: Final = "attachment_cleanup"
CHAT_CLEANUP: Final = "chat_cleanup"
THREAD_SUMMARY: Final = "thread_summary"
QUEUES: Final = (USAGE_SNAPSHOT, AUDIT, ATTACHMENT_CLEANUP, CHAT_CLEANUP, THREAD_SUMMARY)


def chat_cleanup(chat_id: ChatId, *, tenant_id: TenantId, deleted_at: datetime) -> OutboxMessage:
    """Asks for the removal of what a deleted chat has left at its provider, attachments or not."""
    return OutboxMessage(
        queue=CHAT_CLEANUP,
        partition_key=str(chat_id),
        payload_type=CHAT_CLEANUP,
        payload={
            "reason": "chat_soft_delete",
            "tenant_id": str(tenant_id),
            "chat_id": str(chat_id),
            "system_request_id": str(new_uuid4()),
            "chat_deleted_at": rfc3339(deleted_at),
        },
        available_at=deleted_at,
        created_at=deleted_at,
    )


def usage_snapshot(event: Mapping[str, Any], *, tenant_id: UUID, chat_id: UUID, now: datetime) -> OutboxMessage:
    """Tells what a turn, or a task of the system, has cost.

    Raises:
        ValueError: the event's key is another tenant's, which would hide that tenant's events from consumers.
    """
    dedupe_key: str = event["dedupe_key"]
    if dedupe_key.partition("/")[0] != tenant_id.hex:
        raise ValueError(f"the usage event {dedupe_key} is not of tenant {tenant_id}")
    return OutboxMessage(
        queue=USAGE_SNAPSHOT,
        partition_key=str(chat_id),
        payload_type=USAGE_SNAPSHOT,
        payload=dict(event),
        dedupe_key=dedupe_key,
        available_at=now,
        created_at=now,
    )


def audit(event: Mapping[str, Any], *, tenant_id: UUID, now: datetime) -> OutboxMessage:
    """Tells what was done to a turn; `event_type` says what."""
    return OutboxMessage(
        queue=AUDIT,
        partition_key=str(tenant_id),
        payload_type=event["event_type"],
        payload=dict(event),
        available_at=now,
        created_at=now,
    )

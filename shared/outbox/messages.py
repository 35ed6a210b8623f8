"""What goes into the outbox: one function per kind of message, which fixes its queue and payload."""

from __future__ import annotations

from datetime import datetime
from typing import Final

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

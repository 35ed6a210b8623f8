"""What goes into the outbox: one function per kind of message, which fixes its queue and payload."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID

from shared.attachments.tables import Attachment
from shared.clock import rfc3339
from shared.ids import ChatId, TenantId, new_uuid4
from shared.outbox.tables import OutboxMessage

USAGE_SNAPSHOT: Final = "usage_snapshot"
AUDIT: Final = "audit"
ATTACHMENT_CLEANUP: Final = "attachment_cleanup"
CHAT_CLEANUP: Final = "chat_cleanup"
THREAD_SUMMARY: Final = "thread_summary"
QUEUES: Final = (USAGE_SNAPSHOT, AUDIT, ATTACHMENT_CLEANUP, CHAT_CLEANUP, THREAD_SUMMARY)

SystemTask = Literal["thread_summary_update", "doc_summary_generation"]
Place = tuple[datetime, UUID]
"""Of a message in its chat's history: when, and its id."""


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


def attachment_deleted(attachment: Attachment, *, vector_store_id: str | None, deleted_at: datetime) -> OutboxMessage:
    """Asks for the removal of an attachment's file at the provider, from the chat's vector store first."""
    return OutboxMessage(
        queue=ATTACHMENT_CLEANUP,
        partition_key=str(attachment.chat_id),
        payload_type="attachment_deleted",
        payload={
            "event_type": "attachment_deleted",
            "tenant_id": str(attachment.tenant_id),
            "chat_id": str(attachment.chat_id),
            "attachment_id": str(attachment.id),
            "provider_file_id": attachment.provider_file_id,
            "vector_store_id": vector_store_id,
            "storage_backend": attachment.storage_backend,
            "attachment_kind": attachment.attachment_kind,
            "deleted_at": rfc3339(deleted_at),
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


def thread_summary(chat_id: ChatId, *, tenant_id: TenantId, base: Place | None, target: Place) -> OutboxMessage:
    """Asks for the summary of what comes after `base`, or after nothing, up to and including `target`."""
    return OutboxMessage(
        queue=THREAD_SUMMARY,
        partition_key=str(chat_id),
        payload_type=THREAD_SUMMARY,
        payload={
            "tenant_id": str(tenant_id),
            "chat_id": str(chat_id),
            "system_request_id": str(new_uuid4()),
            "system_task_type": "thread_summary_update",
            "base_frontier_created_at": None if base is None else rfc3339(base[0]),
            "base_frontier_message_id": None if base is None else str(base[1]),
            "frozen_target_created_at": rfc3339(target[0]),
            "frozen_target_message_id": str(target[1]),
        },
        available_at=target[0],
        created_at=target[0],
    )


def system_usage(
    *,
    task: SystemTask,
    tenant_id: UUID,
    chat_id: UUID,
    system_request_id: UUID,
    model: str,
    policy_version: int,
    usage: Mapping[str, int],
    at: datetime,
) -> OutboxMessage:
    """What a task that no user asked for has used: told, and charged to nobody."""
    event: dict[str, Any] = {
        "event_type": USAGE_SNAPSHOT,
        "dedupe_key": f"{tenant_id.hex}/{task}/{system_request_id.hex}",
        "requester_type": "system",
        "system_task_type": task,
        "tenant_id": str(tenant_id),
        "user_id": None,
        "chat_id": str(chat_id),
        "turn_id": None,
        "request_id": str(system_request_id),
        "selected_model": model,
        "effective_model": model,
        "quota_decision": "allow",
        "downgrade_from": None,
        "downgrade_reason": None,
        "terminal_state": "completed",
        "billing_outcome": "system_task",
        "outcome": "completed",
        "settlement_method": "released",
        "completion_signal": None,
        "error_code": None,
        "usage": dict(usage),
        "actual_credits_micro": 0,
        "committed_credits_micro": 0,
        "reserved_credits_micro": 0,
        "reserve_tokens": 0,
        "overshoot_capped": False,
        "policy_version_applied": policy_version,
        "web_search_calls": 0,
        "code_interpreter_calls": 0,
        "timestamp": rfc3339(at),
    }
    return usage_snapshot(event, tenant_id=tenant_id, chat_id=chat_id, now=at)

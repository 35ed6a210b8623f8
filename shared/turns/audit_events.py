"""What the audit trail is told of turns: how each one ended, and who replaced or deleted one.

Members that are unknown are left out. What was asked and answered is part of it only if the operator wants it
(`audit.include_content`), and then without what looks like a secret; bytes of files never are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Self
from uuid import UUID

from shared.audit.redaction import Redacted, redact_field
from shared.clock import rfc3339
from shared.quotas.usage_event import tokens_of
from shared.trace import current_trace_id
from shared.turns.lifecycle import Ending, TurnState
from shared.turns.tables import Turn


@dataclass(frozen=True, slots=True)
class AuditedContent:
    """Question and answer, redacted and cut."""

    prompt: Redacted
    response: Redacted

    @classmethod
    def of(cls, *, prompt: str, response: str) -> Self:
        return cls(redact_field(prompt), redact_field(response))


def turn_ended(
    turn: Turn,
    *,
    selected_model: str,
    ending: Ending,
    attachments: Sequence[Mapping[str, Any]],
    content: AuditedContent | None,
) -> dict[str, Any]:
    """`turn_completed`, or `turn_failed` for one that failed or was stopped."""
    assert turn.completed_at is not None  # noqa: S101 (it has ended)
    usage = ending.usage
    is_known = usage is not None and usage.is_known
    event = {
        "event_type": "turn_completed" if ending.state is TurnState.COMPLETED else "turn_failed",
        "timestamp": rfc3339(turn.completed_at),
        "tenant_id": str(turn.tenant_id),
        "requester_type": turn.requester_type,
        "trace_id": current_trace_id(),
        "user_id": None if turn.requester_user_id is None else str(turn.requester_user_id),
        "chat_id": str(turn.chat_id),
        "turn_id": str(turn.id),
        "request_id": str(turn.request_id),
        "selected_model": selected_model,
        "effective_model": turn.effective_model,
        "policy_version_applied": turn.policy_version_applied,
        "usage": {**tokens_of(usage), "model": turn.effective_model} if usage is not None and is_known else None,
        "latency_ms": {"total_ms": round((turn.completed_at - turn.started_at).total_seconds() * 1000)},
        "policy_decisions": {
            "quota": _present(
                {
                    "decision": turn.quota_decision,
                    "downgrade_from": turn.downgrade_from,
                    "downgrade_reason": turn.downgrade_reason,
                }
            )
        },
        "completion_signal": turn.completion_signal,
        "error_code": turn.error_code,
        "prompt": None if content is None else content.prompt.text,
        "response": None if content is None else content.response.text,
        "attachments": list(attachments),
        "tool_calls": {
            "file_search_calls": ending.file_search_calls,
            "web_search_calls": turn.web_search_completed_count,
            "code_interpreter_calls": turn.code_interpreter_completed_count,
        },
    }
    return _present(event)


def turn_replaced(
    old: Turn, *, by: Turn, actor_user_id: UUID, event_type: Literal["turn_retry", "turn_edit"], now: datetime
) -> dict[str, Any]:
    """A retry or an edit; `turn_id` is the old turn's."""
    return _mutation(event_type, old, actor_user_id, now) | {
        "original_request_id": str(old.request_id),
        "new_request_id": str(by.request_id),
    }


def turn_deleted(turn: Turn, *, actor_user_id: UUID, now: datetime) -> dict[str, Any]:
    return _mutation("turn_delete", turn, actor_user_id, now) | {"request_id": str(turn.request_id)}


def _mutation(event_type: str, turn: Turn, actor_user_id: UUID, now: datetime) -> dict[str, Any]:
    return _present(
        {
            "event_type": event_type,
            "timestamp": rfc3339(now),
            "tenant_id": str(turn.tenant_id),
            "trace_id": current_trace_id(),
            "actor_user_id": str(actor_user_id),
            "chat_id": str(turn.chat_id),
            "turn_id": str(turn.id),
        }
    )


def _present(members: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}

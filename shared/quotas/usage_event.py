"""The event by which others learn what a turn has cost: exactly one for every turn that took a reserve.

Zero-charge turns have one too; what was refused before its reserve has none. `committed_credits_micro` is what was
really taken from the user's buckets, in the same transaction. Consumers drop repetitions by `dedupe_key`, which is
`<tenant>/<turn>/<request>` in hex without hyphens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shared.clock import rfc3339
from shared.quotas.settlement import Reserved, Settlement
from shared.turns.lifecycle import Ending, TokenUsage
from shared.turns.tables import Turn


def dedupe_key_of(turn: Turn) -> str:
    return f"{turn.tenant_id.hex}/{turn.id.hex}/{turn.request_id.hex}"


def usage_event(
    turn: Turn, *, selected_model: str, ending: Ending, reserved: Reserved, settlement: Settlement
) -> dict[str, Any]:
    """The payload for a turn as it was stored with its end."""
    assert turn.completed_at is not None  # noqa: S101 (it has ended)
    usage = ending.usage
    return {
        "event_type": "usage_snapshot",
        "dedupe_key": dedupe_key_of(turn),
        "requester_type": turn.requester_type,
        "tenant_id": str(turn.tenant_id),
        "user_id": str(reserved.user_id),
        "chat_id": str(turn.chat_id),
        "turn_id": str(turn.id),
        "request_id": str(turn.request_id),
        "selected_model": selected_model,
        "effective_model": reserved.effective_model,
        "quota_decision": turn.quota_decision,
        "downgrade_from": turn.downgrade_from,
        "downgrade_reason": turn.downgrade_reason,
        "terminal_state": turn.state,
        "billing_outcome": ending.billing_outcome,
        "outcome": ending.billing_outcome,
        "settlement_method": settlement.method,
        "completion_signal": turn.completion_signal,
        "error_code": turn.error_code,
        "usage": None if usage is None or not usage.is_known else tokens_of(usage),
        "actual_credits_micro": settlement.credits_micro,
        "committed_credits_micro": settlement.credits_micro,
        "reserved_credits_micro": reserved.credits_micro,
        "reserve_tokens": reserved.tokens,
        "overshoot_capped": settlement.is_overshoot_capped,
        "policy_version_applied": reserved.policy_version,
        "web_search_calls": turn.web_search_completed_count,
        "code_interpreter_calls": turn.code_interpreter_completed_count,
        "timestamp": rfc3339(turn.completed_at),
    }


def tokens_of(usage: TokenUsage) -> Mapping[str, int]:
    return {
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cache_read_input_tokens": usage.cache_read_input_tokens,
        "cache_write_input_tokens": usage.cache_write_input_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
    }

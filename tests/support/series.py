"""Every series of the product, with its type and labels: what dashboards and alerts rely on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal

Kind = Literal["counter", "gauge", "histogram"]

_MODEL = ("provider", "model")
_LISTS: Final[dict[Kind, dict[tuple[str, ...], str]]] = {
    "counter": {
        _MODEL: "stream_started stream_completed",
        (*_MODEL, "reason"): "stream_incomplete",
        (*_MODEL, "error_code"): "stream_failed",
        ("stage",): "stream_disconnected",
        ("reason",): ("stream_replay turn_attempts orphan_detected orphan_finalized upload_rejected media_rejected"),
        ("source",): "stream_resumed citations_by_source",
        ("trigger",): "cancel_requested cancel_effective streams_aborted",
        ("decision", "model", "tier"): "quota_preflight",
        ("kind", "decision", "model", "tier"): "quota_preflight_v2",
        ("from_tier", "to_tier"): "quota_tier_downgrade",
        ("period",): "quota_reserve quota_commit quota_overshoot quota_negative quota_image_commit",
        ("tool", "phase"): "tool_calls",
        ("tool",): "tool_call_limited",
        ("model",): "code_interpreter_calls image_turns",
        ("truncated_item",): "context_truncation",
        ("result",): ("thread_summary_trigger thread_summary_execution attachment_index attachment_summary audit_emit"),
        ("op", "result"): "turn_mutation",
        ("provider", "endpoint"): "provider_requests",
        ("provider", "status"): "provider_errors",
        ("provider", "reason"): "provider_retries",
        ("provider",): "provider_circuit_open",
        ("kind", "result"): "attachment_upload outbox_enqueue outbox_handler",
        ("resource_type",): "cleanup_completed cleanup_failed",
        ("resource_type", "reason"): "cleanup_retry",
        ("pattern",): "audit_redaction_hits",
        ("query", "code"): "db_errors",
        (): (
            "turn_fenced quota_overshoot_exceeded credits_overflow unknown_error_code web_search_disabled"
            " code_interpreter_disabled retrieval_zero_hit thread_summary_cas_conflicts summary_fallback"
            " cleanup_vector_store_with_failed_attachments"
        ),
    },
    "gauge": {
        ("instance",): "active_streams attachments_pending attachments_failed",
        ("period",): "quota_reserved_tokens",
        ("state", "resource_type"): "cleanup_backlog",
        ("kind",): "outbox_pending outbox_dead_letter_backlog outbox_dead_letter_oldest_age_seconds",
        (): "turns_queued turns_running attached_clients",
    },
    "histogram": {
        _MODEL: (
            "ttft_provider_ms ttft_overhead_ms stream_total_latency_ms file_search_latency_ms web_search_latency_ms"
        ),
        ("trigger",): "time_to_abort_ms tokens_after_cancel time_from_ui_disconnect_to_cancel_ms",
        ("provider",): "retrieval_latency_ms",
        ("op",): "turn_mutation_latency_ms cleanup_latency_ms",
        ("provider", "endpoint"): "provider_latency_ms",
        ("kind",): "attachment_upload_bytes",
        ("query",): "db_query_latency_ms",
        (): (
            "dispatch_latency_ms relay_lag_ms orphan_scan_duration_seconds quota_estimated_tokens quota_actual_tokens"
            " quota_overshoot_tokens citations_count retrieval_chunks_returned attachment_index_latency_ms"
            " image_inputs_per_turn finalization_latency_ms"
        ),
    },
}


def _series() -> Iterator[tuple[str, tuple[Kind, frozenset[str]]]]:
    for kind, lists in _LISTS.items():
        for labels, names in lists.items():
            for name in names.split():
                yield name, (kind, frozenset(labels))


SERIES: Final[dict[str, tuple[Kind, frozenset[str]]]] = dict(_series())
LABELS: Final = frozenset[str]().union(*(labels for _, labels in SERIES.values()))
"""None names a tenant, a user, a chat, a turn, a request or a file, or holds free text."""

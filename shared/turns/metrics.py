"""What is counted of a turn that has ended, whoever ended it, once that is committed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from shared.metrics import Metrics
from shared.turns.lifecycle import Ending, TurnState
from shared.turns.tables import Turn

_ABORTS: Final[Mapping[str, str]] = {
    "disconnect": "client_disconnect",
    "timeout": "internal_abort",
    "internal": "internal_abort",
}
"""How a stop is called among the aborted streams. What the user has stopped is not one of them."""


def count_end(metrics: Metrics, turn: Turn, ending: Ending) -> None:
    """
    Args:
        turn: its row as it is now.
    """
    by_model = {"provider": turn.provider_name or "unknown", "model": turn.effective_model or "unknown"}
    match ending.state:
        case TurnState.COMPLETED:
            reason = (ending.completion_signal or {}).get("incomplete_reason")
            if reason is None:
                metrics.stream_completed.labels(**by_model).inc()
            else:
                metrics.stream_incomplete.labels(**by_model, reason=reason).inc()
        case TurnState.FAILED:
            metrics.stream_failed.labels(**by_model, error_code=ending.error_code).inc()
            if ending.error_code == "orphan_timeout":
                metrics.streams_aborted.labels("orphan_timeout" if ending.was_stuck else "pod_crash").inc()
        case TurnState.CANCELLED:
            trigger = turn.cancel_trigger or "internal"
            metrics.cancel_effective.labels(trigger).inc()
            if trigger in _ABORTS:
                metrics.streams_aborted.labels(_ABORTS[trigger]).inc()
    if turn.completed_at is not None:
        elapsed_ms = (turn.completed_at - turn.started_at).total_seconds() * 1000
        metrics.stream_total_latency_ms.labels(**by_model).observe(elapsed_ms)

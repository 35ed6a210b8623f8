"""The queue's entry point for turns."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from shared.logs import log_fields
from shared.trace import TraceContext, current_trace
from worker.turns.runner import TurnRunner

RUNNER = "turn_runner"
"""Where arq's untyped context holds the runner."""


async def run_turn(
    ctx: dict[str, Any], *, turn_id: str, attempt: int, traceparent: str | None = None, **_future: Any
) -> None:
    """Run one attempt. Members that a newer release adds to the payload are ignored."""
    runner: TurnRunner = ctx[RUNNER]
    trace = TraceContext.from_header(traceparent)
    current_trace.set(trace)
    with log_fields(trace_id=trace.trace_id, turn_id=turn_id, processing_stage="generate"):
        await runner.run(UUID(turn_id), attempt=attempt)

"""The queue's entry point for turns."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from opentelemetry.trace import get_current_span

from shared.logs import log_fields
from shared.queue.jobs import AttemptReason
from worker.turns.runner import TurnRunner

RUNNER = "turn_runner"
"""Where arq's untyped context holds the runner."""


async def run_turn(
    ctx: dict[str, Any], *, turn_id: str, attempt: int, reason: AttemptReason | None = None, **_future: Any
) -> None:
    """Run one attempt. Members that a newer release adds to the payload are ignored."""
    runner: TurnRunner = ctx[RUNNER]
    get_current_span().set_attributes({"mini_chat.turn_id": turn_id, "mini_chat.attempt": attempt})
    with log_fields(turn_id=turn_id, processing_stage="generate"):
        # An older release does not say why.
        await runner.run(UUID(turn_id), attempt=attempt, reason=reason or ("first" if attempt == 1 else "worker_lost"))

"""The jobs that go through the queue: their names, ids and payloads. Payloads are JSON and only ever grow members."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

RUN_TURN = "run_turn"


@dataclass(frozen=True, slots=True)
class RunTurn:
    """Try the turn for the `attempt`-th time. All else a worker reads from the turn's row."""

    turn_id: UUID
    attempt: int
    traceparent: str | None = None

    @property
    def job_id(self) -> str:
        """One job per attempt: enqueueing it again while it waits changes nothing."""
        return f"{self.turn_id}:{self.attempt}"

    def to_kwargs(self) -> dict[str, str | int]:
        kwargs: dict[str, str | int] = {"turn_id": str(self.turn_id), "attempt": self.attempt}
        if self.traceparent is not None:
            kwargs["traceparent"] = self.traceparent
        return kwargs

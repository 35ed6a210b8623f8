"""The jobs that go through the queue: their names, ids and payloads. Payloads are JSON and only ever grow members."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol
from uuid import UUID

AttemptReason = Literal["first", "worker_lost", "drain"]

RUN_TURN = "run_turn"
INDEX_ATTACHMENT = "index_attachment"
SUMMARIZE_DOCUMENT = "summarize_document"


class Job(Protocol):
    """What can be enqueued. Enqueueing a job again while one of its id waits changes nothing."""

    @property
    def name(self) -> str:
        """The worker's function."""
        ...

    @property
    def job_id(self) -> str: ...

    def to_kwargs(self) -> dict[str, str | int]: ...


@dataclass(frozen=True, slots=True)
class RunTurn:
    """Try the turn for the `attempt`-th time. All else a worker reads from the turn's row."""

    name: ClassVar[str] = RUN_TURN

    turn_id: UUID
    attempt: int
    traceparent: str | None = None
    reason: AttemptReason = "first"
    """Why there is this attempt."""

    @property
    def job_id(self) -> str:
        """One job per attempt."""
        return f"{self.turn_id}:{self.attempt}"

    def to_kwargs(self) -> dict[str, str | int]:
        kwargs: dict[str, str | int] = {"turn_id": str(self.turn_id), "attempt": self.attempt, "reason": self.reason}
        return kwargs | _trace(self.traceparent)


@dataclass(frozen=True, slots=True)
class IndexAttachment:
    """Make an uploaded document searchable. All else a worker reads from the attachment's row."""

    name: ClassVar[str] = INDEX_ATTACHMENT

    tenant_id: UUID
    chat_id: UUID
    attachment_id: UUID
    traceparent: str | None = None

    @property
    def job_id(self) -> str:
        return f"index:{self.attachment_id}"

    def to_kwargs(self) -> dict[str, str | int]:
        kwargs: dict[str, str | int] = {
            "tenant_id": str(self.tenant_id),
            "chat_id": str(self.chat_id),
            "attachment_id": str(self.attachment_id),
        }
        return kwargs | _trace(self.traceparent)


@dataclass(frozen=True, slots=True)
class SummarizeDocument:
    """Write what a searchable document says. `system_request_id` names the summary, however often it is asked for."""

    name: ClassVar[str] = SUMMARIZE_DOCUMENT

    tenant_id: UUID
    chat_id: UUID
    attachment_id: UUID
    system_request_id: UUID
    traceparent: str | None = None

    @property
    def job_id(self) -> str:
        return f"summarize:{self.attachment_id}"

    def to_kwargs(self) -> dict[str, str | int]:
        kwargs: dict[str, str | int] = {
            "tenant_id": str(self.tenant_id),
            "chat_id": str(self.chat_id),
            "attachment_id": str(self.attachment_id),
            "system_request_id": str(self.system_request_id),
        }
        return kwargs | _trace(self.traceparent)


def _trace(traceparent: str | None) -> dict[str, str]:
    return {} if traceparent is None else {"traceparent": traceparent}

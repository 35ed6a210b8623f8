"""The states of a turn, and the ways it can end. Pure: no I/O.

    running -> completed | failed | cancelled        terminal states never change

Whoever ends a turn (its worker, the sweeper, the API) describes the end as an `Ending` and hands it to the one
finalization function; the first compare-and-set wins and the others do nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

from shared.events import frames
from shared.events.frames import Frame


class TurnState(StrEnum):
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        return self is not TurnState.RUNNING

    @property
    def public_name(self) -> str:
        """What the API calls the state."""
        return _PUBLIC_NAMES[self]


_PUBLIC_NAMES = {
    TurnState.RUNNING: "running",
    TurnState.COMPLETED: "done",
    TurnState.FAILED: "error",
    TurnState.CANCELLED: "cancelled",
}

CancelTrigger = Literal["user_stop", "disconnect", "timeout", "internal"]
BillingOutcome = Literal["completed", "failed", "aborted"]

ERROR_MESSAGES: Mapping[str, str] = {
    "provider_error": "Provider is currently unavailable",
    "provider_timeout": "Provider request timed out",
    "rate_limited": "Rate limited by provider",
    "context_length_exceeded": "The conversation does not fit into the model's context",
    "web_search_calls_exceeded": "Web search calls exceeded for this message",
    "code_interpreter_calls_exceeded": "Code interpreter calls exceeded for this message",
    "orphan_timeout": "Request timed out. Please try again.",
    "validation_error": "The request could not be processed",
    "message_persistence_failed": "The answer could not be stored",
    "internal_error": "An internal error occurred",
}
"""What clients read for an `error_code` when nothing more specific is known, as on a replay."""

CANCELLED_MESSAGE = "Generation was cancelled"
TIMED_OUT_MESSAGE = "Generation took too long"
NO_CONTENT_MESSAGE = "The model returned no content"


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """Tokens as the provider counted them. Cached and reasoning tokens are parts of the first two, and stay inside."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_input_tokens: int = 0
    cache_write_input_tokens: int = 0
    reasoning_tokens: int = 0

    @property
    def is_known(self) -> bool:
        """Zeros mean that the provider did not count."""
        return self.input_tokens > 0 or self.output_tokens > 0


@dataclass(frozen=True, slots=True)
class Ending:
    """How a turn ends. `text` is what is stored: the whole answer, or what had been shown of a stopped one."""

    state: TurnState
    provider_started: bool
    text: str = ""
    usage: TokenUsage | None = None
    response_id: str | None = None
    completion_signal: Mapping[str, Any] | None = None
    citations: tuple[Mapping[str, Any], ...] = ()
    error_code: str | None = None
    error_message: str | None = None
    error_detail: str | None = field(default=None, repr=False)
    """Internal: raw provider text, never sent to clients."""
    trigger: CancelTrigger | None = None
    was_stuck: bool = False
    """Of a turn that ran out of time: a worker held it, and it did not move or was too old. Else it had no worker."""
    file_search_calls: int = 0

    @property
    def has_answer(self) -> bool:
        """Whether a message is stored: the whole answer, or what had been shown of a stopped one."""
        return self.state in (TurnState.COMPLETED, TurnState.CANCELLED) and bool(self.text.strip())

    @property
    def billing_outcome(self) -> BillingOutcome:
        """What consumers of usage are told; it follows from what ended the turn, not from the state alone."""
        if self.state is TurnState.COMPLETED:
            return "completed"
        # A turn whose workers were lost did not fail by itself.
        is_aborted = self.state is TurnState.CANCELLED or self.error_code == "orphan_timeout"
        return "aborted" if is_aborted else "failed"

    @classmethod
    def completed(
        cls,
        *,
        text: str,
        usage: TokenUsage | None,
        response_id: str | None,
        incomplete_reason: str | None = None,
        citations: tuple[Mapping[str, Any], ...] = (),
    ) -> Ending:
        """The provider finished. Without visible text that is a failure: a completed turn always has an answer."""
        if not text.strip():
            return cls.failed(
                "provider_error",
                provider_started=True,
                message=NO_CONTENT_MESSAGE,
                usage=usage,
                response_id=response_id,
            )
        return cls(
            TurnState.COMPLETED,
            provider_started=True,
            text=text,
            usage=usage,
            response_id=response_id,
            completion_signal=None if incomplete_reason is None else {"incomplete_reason": incomplete_reason},
            citations=citations,
        )

    @classmethod
    def failed(
        cls,
        code: str,
        *,
        provider_started: bool,
        message: str | None = None,
        detail: str | None = None,
        usage: TokenUsage | None = None,
        response_id: str | None = None,
    ) -> Ending:
        return cls(
            TurnState.FAILED,
            provider_started,
            error_code=code,
            error_message=message or ERROR_MESSAGES[code],
            error_detail=detail,
            usage=usage,
            response_id=response_id,
        )

    @classmethod
    def cancelled(
        cls, trigger: CancelTrigger, *, text: str, provider_started: bool, usage: TokenUsage | None = None
    ) -> Ending:
        return cls(TurnState.CANCELLED, provider_started, text=text, usage=usage, trigger=trigger)

    def error_frame(self) -> Frame:
        """The terminal `error` event of a failed turn."""
        assert self.error_code is not None  # noqa: S101 (`failed` sets it, and only failed turns ask)
        return frames.error(self.error_code, self.error_message or ERROR_MESSAGES[self.error_code])


def cancelled_frame(trigger: str | None) -> Frame:
    return frames.error("cancelled", TIMED_OUT_MESSAGE if trigger == "timeout" else CANCELLED_MESSAGE)

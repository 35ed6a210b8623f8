"""The events that clients see, and their bytes on the wire.

    stream_started  (ping* (delta | tool)* restart)*  ping* (delta | tool)*  citations?  (done | error)  EOF

A frame is encoded once, by whoever produces it, and stored without its `id:` line; relays only join bytes. `data` is
one line of compact JSON. A `stream_started` or `restart` tells the client to drop what it has received so far.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

import orjson

RestartReason = Literal["worker_lost", "log_lost"]
ToolName = Literal["file_search", "web_search", "code_interpreter"]

TERMINAL_EVENTS = frozenset({"done", "error"})
MARK = "mark"
"""The event name of an entry that opens an attempt unseen: it is not sent to clients."""

# One line end, here and in `retry`: a blank line would be taken for the end of an event without an id, and make an
# EventSource that has just reconnected forget where it was.
KEEP_ALIVE = b": keep-alive\n"


@dataclass(frozen=True, slots=True)
class Frame:
    """`event` by name, and its encoded `event:` and `data:` lines with the blank line that ends them."""

    event: str
    body: bytes

    def with_id(self, event_id: object) -> bytes:
        return b"id: %s\n%s" % (str(event_id).encode(), self.body)

    @property
    def is_terminal(self) -> bool:
        return self.event in TERMINAL_EVENTS


def encode(event: str, data: Mapping[str, Any]) -> Frame:
    # JSON escapes every line end inside a string, so the data can never break the frame.
    return Frame(event, b"event: %s\ndata: %s\n\n" % (event.encode(), orjson.dumps(data)))


def stream_started(
    *, request_id: UUID, message_id: UUID, is_new_turn: bool, summary_token_estimate: int | None = None
) -> Frame:
    """`message_id` is the id that the stored answer has or will have."""
    data: dict[str, Any] = {
        "request_id": str(request_id),
        "message_id": str(message_id),
        "is_new_turn": is_new_turn,
    }
    if summary_token_estimate is not None:
        data["thread_summary_applied"] = {"token_estimate": summary_token_estimate}
    return encode("stream_started", data)


def delta(content: str, *, kind: Literal["text", "reasoning"] = "text") -> Frame:
    return encode("delta", {"type": kind, "content": content})


def delta_text(body: bytes) -> str:
    """The text of an encoded delta; empty for reasoning, which is no part of the answer."""
    data = orjson.loads(body.partition(b"\ndata: ")[2])
    return str(data["content"]) if data["type"] == "text" else ""


def tool(phase: Literal["start", "done"], name: ToolName, details: Mapping[str, Any]) -> Frame:
    return encode("tool", {"phase": phase, "name": name, "details": details})


def restart(*, attempt: int, reason: RestartReason) -> Frame:
    return encode("restart", {"attempt": attempt, "reason": reason})


def citations(items: Sequence[Mapping[str, Any]]) -> Frame:
    return encode("citations", {"items": list(items)})


def error(code: str, message: str, *, quota_scope: str | None = None) -> Frame:
    data = {"code": code, "message": message}
    if quota_scope is not None:
        data["quota_scope"] = quota_scope
    return encode("error", data)


@dataclass(frozen=True, slots=True)
class DoneUsage:
    input_tokens: int
    output_tokens: int
    model: str


def done(
    *,
    usage: DoneUsage | None,
    effective_model: str,
    selected_model: str,
    quota_decision: str,
    downgrade_from: str | None = None,
    downgrade_reason: str | None = None,
    quota_warnings: Sequence[Mapping[str, Any]] | None = None,
) -> Frame:
    """`usage` is null when the provider did not tell it; the downgrade members go with decision `downgrade` only."""
    data: dict[str, Any] = {
        "usage": None
        if usage is None
        else {"input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens, "model": usage.model},
        "effective_model": effective_model,
        "selected_model": selected_model,
        "quota_decision": quota_decision,
    }
    if quota_decision == "downgrade":
        data["downgrade_from"] = downgrade_from
        data["downgrade_reason"] = downgrade_reason
    if quota_warnings is not None:
        data["quota_warnings"] = list(quota_warnings)
    return encode("done", data)


def ping(event_id: object) -> bytes:
    """A ping repeats the id of the last frame, so that a client's `Last-Event-ID` never points at what no log holds."""
    return b"id: %s\nevent: ping\ndata: {}\n\n" % str(event_id).encode()


def retry(milliseconds: int) -> bytes:
    """Tells the client how long to wait before it reconnects; the connection is closed after it."""
    return b"retry: %d\n" % milliseconds

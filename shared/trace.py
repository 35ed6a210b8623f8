"""W3C trace context: which trace a request belongs to, on its way through API, job and provider call.

A `traceparent` is `00-<trace id, 32 hex>-<parent span id, 16 hex>-<flags, 2 hex>` in lower case. What cannot be
parsed is ignored and a new trace begins, as the recommendation demands.

Source: https://www.w3.org/TR/trace-context/#traceparent-header
"""

from __future__ import annotations

import re
import secrets
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Final, Self

_TRACEPARENT: Final = re.compile(
    r"(?P<version>[0-9a-f]{2})-(?P<trace>[0-9a-f]{32})-(?P<span>[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})(?P<rest>-.*)?"
)
_SAMPLED: Final = 0x01


@dataclass(frozen=True, slots=True)
class TraceContext:
    """A span of ours within a trace."""

    trace_id: str
    span_id: str
    is_sampled: bool = True

    @classmethod
    def new(cls) -> Self:
        return cls(secrets.token_hex(16), secrets.token_hex(8))

    @classmethod
    def from_header(cls, traceparent: str | None) -> Self:
        """A child of the caller's span; a new trace if the header is absent or not valid."""
        found = _TRACEPARENT.fullmatch(traceparent.strip()) if traceparent else None
        if found is None or not _is_valid(found):
            return cls.new()
        is_sampled = bool(int(found["flags"], 16) & _SAMPLED)
        return cls(found["trace"], secrets.token_hex(8), is_sampled)

    @property
    def header(self) -> str:
        """The `traceparent` for whatever this span calls."""
        return f"00-{self.trace_id}-{self.span_id}-{_SAMPLED if self.is_sampled else 0:02x}"

    def child(self) -> Self:
        return replace(self, span_id=secrets.token_hex(8))


def _is_valid(found: re.Match[str]) -> bool:
    if found["version"] == "ff" or (found["version"] == "00" and found["rest"]):
        return False
    return found["trace"].strip("0") != "" and found["span"].strip("0") != ""


current_trace: ContextVar[TraceContext | None] = ContextVar("current_trace", default=None)
"""The span that the running task works for."""

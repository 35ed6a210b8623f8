"""The record of received requests that tests and benches read back.

Times are epoch seconds. Secrets are masked on the way in, bodies are kept as received. Only the newest
requests are kept, by number and by memory, so that a bench cannot grow the process without end.
"""

import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import web

from api.demo_provider.wire import new_id

MAX_RECORDS = 10_000
MAX_BODY_BYTES = 128 * 1024 * 1024

_SECRET_HEADERS = frozenset({"authorization", "api-key", "x-api-key", "proxy-authorization"})


@dataclass(slots=True)
class RequestRecord:
    """One request and what became of its answer; header names are in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    raw_body: bytes
    id: str = field(default_factory=lambda: new_id("req_"))
    received_at: float = field(default_factory=time.time)
    first_delta_at: float | None = None
    finished_at: float | None = None
    closed_by_caller_at: float | None = None
    deltas_sent: int = 0

    def count_deltas(self, count: int) -> None:
        """Note that `count` more text deltas were written to the socket."""
        if self.first_delta_at is None:
            self.first_delta_at = time.time()
        self.deltas_sent += count

    def finish(self) -> None:
        """Note that the answer was written to its end, whatever end was scripted."""
        self.finished_at = time.time()

    def close(self) -> None:
        """Note that the caller went away before the end; a finished answer stays finished."""
        if self.finished_at is None:
            self.closed_by_caller_at = time.time()

    def as_json(self) -> dict[str, Any]:
        """The record as the control endpoint shows it."""
        return {
            "id": self.id,
            "method": self.method,
            "path": self.path,
            "headers": self.headers,
            "body": _show_body(self.raw_body),
            "received_at": self.received_at,
            "first_delta_at": self.first_delta_at,
            "finished_at": self.finished_at,
            "closed_by_caller_at": self.closed_by_caller_at,
            "deltas_sent": self.deltas_sent,
        }


class Journal:
    """The newest requests, oldest first."""

    def __init__(self, *, max_records: int = MAX_RECORDS, max_body_bytes: int = MAX_BODY_BYTES) -> None:
        self._records: deque[RequestRecord] = deque()
        self._max_records = max_records
        self._max_body_bytes = max_body_bytes
        self._body_bytes = 0

    def open(self, request: web.Request, raw_body: bytes, *, received_at: float) -> RequestRecord:
        """Record a request whose body has been read; `received_at` is when its headers had arrived."""
        record = RequestRecord(
            method=request.method,
            path=request.path_qs,
            headers={name.lower(): _mask(name, value) for name, value in request.headers.items()},
            raw_body=raw_body,
            received_at=received_at,
        )
        self._records.append(record)
        self._body_bytes += len(raw_body)
        self._drop_oldest()
        return record

    def list(self) -> list[RequestRecord]:
        """All kept records."""
        return [*self._records]

    def clear(self) -> None:
        """Forget everything; answers still being written go on unrecorded."""
        self._records.clear()
        self._body_bytes = 0

    def _drop_oldest(self) -> None:
        while len(self._records) > self._max_records or (
            self._body_bytes > self._max_body_bytes and len(self._records) > 1
        ):
            self._body_bytes -= len(self._records.popleft().raw_body)


def _mask(name: str, value: str) -> str:
    if name.lower() not in _SECRET_HEADERS:
        return value
    return "Bearer ***" if value.startswith("Bearer ") else "***"


def _show_body(raw: bytes) -> Any:
    if not raw:
        return None
    try:
        return orjson.loads(raw)
    except ValueError:
        return raw.decode("utf-8", "replace")

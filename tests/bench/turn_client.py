"""Sends turns at a steady rate and reads their streams, in a process of its own: raw sockets, no parsing but a search.

A turn is one POST on a connection of its own. Its provider must be `tests.bench.fast_provider`, whose deltas tell when
they were written. Commands arrive as JSON, one a line; each is answered by one line.
"""

from __future__ import annotations

import asyncio
import resource
import time
from typing import Any, cast

import orjson
import uvloop

from tests.bench.relay_client import serve

TURN_TIMEOUT_SECS = 60
STAMP = b'"@'
DIGITS = 19


class Turn(asyncio.Protocol):
    """One POST; `ended` is done once the server has closed the response."""

    __slots__ = ("_request", "_seen", "asked", "delta_lag", "ended", "sent", "started", "transport")

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._seen = b""
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.sent = self.started = self.asked = 0
        self.delta_lag = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.sent = time.time_ns()
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now = time.time_ns()
        if not self.delta_lag:
            self._seen += data
            if not self.started and b"event: stream_started" in self._seen:
                self.started = now
            position = self._seen.find(STAMP) + len(STAMP)
            if position > 1 and len(self._seen) >= position + 2 * DIGITS + 1:
                written = int(self._seen[position : position + DIGITS])
                self.asked = int(self._seen[position + DIGITS + 1 : position + 2 * DIGITS + 1])
                self.delta_lag = now - written
        if data.endswith(b"0\r\n\r\n"):
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (of asyncio)
        if not self.ended.done():
            self.ended.set_result(None)


async def run(*, port: int, headers: str, paths: list[str], content: str, rate: float) -> dict[str, Any]:
    """Send one turn per path, so many a second, and wait for all of them; milliseconds, one value per turn."""
    loop = asyncio.get_running_loop()
    body = orjson.dumps({"content": content})
    before = _cpu_secs()
    turns: list[Turn] = []

    async def send(path: str) -> None:
        head = f"POST {path} HTTP/1.1\r\nHost: bench\r\n{headers}Content-Type: application/json\r\n"
        turn = Turn(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        turns.append(turn)
        await loop.create_connection(lambda: turn, "127.0.0.1", port)
        async with asyncio.timeout(TURN_TIMEOUT_SECS):
            await turn.ended

    began = loop.time()
    async with asyncio.TaskGroup() as tasks:
        for index, path in enumerate(paths):
            await asyncio.sleep(max(0.0, began + index / rate - loop.time()))
            tasks.create_task(send(path))
    failed = [turn for turn in turns if not turn.delta_lag]
    if failed:
        raise RuntimeError(f"{len(failed)} turns of {len(turns)} have told nothing: {failed[0]._seen[:500]!r}")
    return {
        "started": [(turn.started - turn.sent) / 1e6 for turn in turns],
        "asked": [(turn.asked - turn.sent) / 1e6 for turn in turns],
        "delta": [turn.delta_lag / 1e6 for turn in turns],
        "client_cpu_secs": _cpu_secs() - before,
    }


def _cpu_secs() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve({"run": run}))

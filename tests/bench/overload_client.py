"""Offers turns at a steady rate, whatever becomes of them, and notes it: raw sockets, in a process of its own.

Its provider must be `tests.bench.fast_provider`, whose deltas tell when they were written. Commands arrive as JSON, one
a line; each is answered by one line.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, cast

import orjson
import uvloop

from tests.bench.relay_client import serve

TURN_TIMEOUT_SECS = 120
STAMP = b'"@'
DIGITS = 19
_STATUS = slice(9, 12)


class OfferedTurn(asyncio.Protocol):
    """One POST; `ended` is done once the server has closed the connection."""

    __slots__ = ("_request", "_rest", "answered", "ended", "is_done", "lags", "restarts", "sent", "status", "text")

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._rest = b""
        self.ended: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self.sent = self.answered = 0.0
        self.status = self.restarts = 0
        self.text = b""
        self.is_done = False
        self.lags: list[float] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.sent = time.time()
        cast("asyncio.Transport", transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        now = time.time()
        if not self.status:
            self.status, self.answered = int(data[_STATUS]), now
        if self.status != 200:
            self.text += data
            return
        # A stamp, or the name of an event, may be cut in two.
        data = self._rest + data
        position = data.find(STAMP)
        while position >= 0 and len(data) >= position + len(STAMP) + DIGITS:
            begin = position + len(STAMP)
            self.lags.append(now - int(data[begin : begin + DIGITS]) / 1e9)
            position = data.find(STAMP, begin)
        cut = data.rfind(b"\n\n") + 2
        self.restarts += data.count(b"event: restart", 0, cut)
        self.is_done = self.is_done or data.find(b"event: done", 0, cut) >= 0
        self._rest = data[max(cut, position) if position >= cut else cut :]

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (of asyncio)
        if not self.ended.done():
            self.ended.set_result(time.time())

    def account(self) -> dict[str, Any]:
        return {
            "sent": self.sent,
            "status": self.status,
            "code": orjson.loads(self.text.partition(b"\r\n\r\n")[2])["code"] if self.text else None,
            "answered_ms": (self.answered - self.sent) * 1000,
            "ended": self.ended.result() if self.ended.done() else None,
            "is_done": self.is_done,
            "restarts": self.restarts,
            "lags_ms": [lag * 1000 for lag in self.lags],
        }


async def offer(*, port: int, headers: str, paths: list[str], content: str, rate: float) -> dict[str, Any]:
    """Send one turn per path, so many a second, and read each to its end."""
    loop = asyncio.get_running_loop()
    body = orjson.dumps({"content": content})
    turns: list[OfferedTurn] = []

    async def send(path: str) -> None:
        head = f"POST {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n{headers}"
        head += "Content-Type: application/json\r\n"
        turn = OfferedTurn(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        turns.append(turn)
        await loop.create_connection(lambda: turn, "127.0.0.1", port)
        await asyncio.wait({turn.ended}, timeout=TURN_TIMEOUT_SECS)

    began = loop.time()
    async with asyncio.TaskGroup() as tasks:
        for index, path in enumerate(paths):
            await asyncio.sleep(max(0.0, began + index / rate - loop.time()))
            tasks.create_task(send(path))
    return {"turns": [turn.account() for turn in turns]}


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve({"offer": offer}))

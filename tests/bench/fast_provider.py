"""A provider that is never the bottleneck: raw sockets, prepared bytes, one timer for all streams.

It answers every POST with a stream in the form of the Responses API. The last user text directs it, `@script {json}`
with `tokens` and `rate` (deltas a second). A delta's text is `@<nanosecond of its writing> `, and of the first one
`@<nanosecond>#<nanosecond of the request's arrival> `, so that whoever reads it can tell how long it took.

`python -m tests.bench.fast_provider PORT`
"""

from __future__ import annotations

import asyncio
import heapq
import sys
import time
from itertools import count
from typing import Any, cast

import orjson
import uvloop

TICK_SECS = 0.001
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
CREATED = b'event: response.created\ndata: {"type":"response.created"}\n\n'
DELTA = (
    b"event: response.output_text.delta\n"
    b'data: {"type":"response.output_text.delta","item_id":"msg_bench01","output_index":0,"content_index":0,'
    b'"sequence_number":1,"logprobs":[],"delta":"@%019d%s "}\n\n'
)
MODELS = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
DEFAULT_SCRIPT = {"tokens": 10, "rate": 0}


class Stream:
    """One answer under way."""

    __slots__ = ("asked_at", "left", "period", "transport", "usage")

    def __init__(self, transport: asyncio.Transport, script: dict[str, Any]) -> None:
        self.transport = transport
        self.asked_at: int | None = time.time_ns()
        self.left = int(script["tokens"])
        self.period = 1 / script["rate"] if script["rate"] else 0.0
        self.usage = self.left

    def write_next(self) -> bool:
        """Write one delta, or the end; False once there is nothing more."""
        if self.transport.is_closing():
            return False
        if not self.left:
            response = {"id": "resp_bench0001", "usage": {"input_tokens": 10, "output_tokens": self.usage}}
            data = orjson.dumps({"type": "response.completed", "response": response})
            self.transport.write(_chunk(b"event: response.completed\ndata: %s\n\n" % data) + b"0\r\n\r\n")
            return False
        asked = b"" if self.asked_at is None else b"#%019d" % self.asked_at
        self.asked_at = None
        self.left -= 1
        self.transport.write(_chunk(DELTA % (time.time_ns(), asked)))
        return True


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


class Connection(asyncio.Protocol):
    """One of the caller's connections, on which requests follow one another."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, separator, rest = self._buffer.partition(b"\r\n\r\n")
        if not separator:
            return
        if head.startswith(b"GET"):
            self._buffer = rest
            self._transport.write(MODELS)
            return
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        if len(rest) >= length:
            self._buffer = rest[length:]
            self._transport.write(HEAD + _chunk(CREATED))
            self._streams.add(Stream(self._transport, _script(rest[:length])))


class Streams:
    """All answers under way, by when their next delta is due."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, Stream]] = []
        self._numbers = count()

    def add(self, stream: Stream) -> None:
        heapq.heappush(self._due, (time.monotonic() + stream.period, next(self._numbers), stream))

    async def play(self) -> None:
        while True:
            now = time.monotonic()
            while self._due and self._due[0][0] <= now:
                due, number, stream = heapq.heappop(self._due)
                if stream.write_next():
                    heapq.heappush(self._due, (max(due + stream.period, now - 1), number, stream))
            await asyncio.sleep(TICK_SECS)


def _script(body: bytes) -> dict[str, Any]:
    text: str = orjson.loads(body)["input"][-1]["content"][0]["text"]
    _, found, rest = text.partition("@script ")
    # The script is the first JSON object; what follows it is for people.
    return {**DEFAULT_SCRIPT, **orjson.loads(rest[: rest.index("}") + 1])} if found else DEFAULT_SCRIPT


async def main(port: int) -> None:
    streams = Streams()
    await asyncio.get_running_loop().create_server(lambda: Connection(streams), "127.0.0.1", port, backlog=4_096)
    await streams.play()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))

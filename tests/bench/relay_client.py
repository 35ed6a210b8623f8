"""The clients of the relay bench, in a process of their own: raw sockets, no HTTP library, no parsing but a search.

Commands arrive as JSON, one a line; each is answered by one line. Whatever an event costs here is part of every latency
that is measured, so that this process reports its own CPU time.
"""

from __future__ import annotations

import array
import asyncio
import resource
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any, cast

import orjson
import uvloop

from tests.bench.measure import percentile
from tests.support.waiting import wait_until

STAMP = b'"@'
"""What a producer's delta begins with: the nanosecond of its append follows in 19 digits."""
STAMP_BYTES = 19
FIRST_FRAME = b"event: "
OPENING = 64
"""So many connections are on their way at once."""
CLIENTS_BY_ADDRESS = 5_000

Stamps = tuple["array.array[int]", "array.array[int]"]


class Reader(asyncio.Protocol):
    """One client: notes when each event of its stream has come, and how long that took."""

    __slots__ = ("_arrivals", "_is_slow", "_latencies", "_request", "_rest", "events", "is_lost", "opened", "transport")

    def __init__(self, request: bytes, stamps: Stamps, *, is_slow: bool) -> None:
        self._request = request
        self._is_slow = is_slow
        self._arrivals, self._latencies = stamps
        self._rest = b""
        self.events = 0
        self.is_lost = False
        self.opened: asyncio.Future[None] | None = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now = time.time_ns()
        if self._rest:
            data = self._rest + data
            self._rest = b""
        if self.opened is not None and FIRST_FRAME in data:
            self.opened.set_result(None)
            self.opened = None
            if self._is_slow and self.transport is not None:
                self.transport.pause_reading()
        position = data.find(STAMP)
        while position != -1:
            start = position + len(STAMP)
            if len(data) - start < STAMP_BYTES:
                self._rest = data[position:]
                return
            self.events += 1
            self._arrivals.append(now)
            self._latencies.append(now - int(data[start : start + STAMP_BYTES]))
            position = data.find(STAMP, start + STAMP_BYTES)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        if self.opened is not None:
            self.opened.set_exception(exc or ConnectionError("closed before its first frame"))


class Clients:
    """All readers, and what they have noted."""

    def __init__(self) -> None:
        self._readers: list[Reader] = []
        self._stamps: Stamps = (array.array("q"), array.array("q"))

    async def open(self, *, port: int, requests: list[str], slow: int = 0) -> dict[str, Any]:
        """Connect one client per request, each until its first frame; the first `slow` read nothing more after it."""
        began = time.perf_counter()
        gate = asyncio.Semaphore(OPENING)

        async def connect(index: int, request: str) -> None:
            address = f"127.0.0.{2 + index // CLIENTS_BY_ADDRESS}"
            reader = Reader(request.encode(), self._stamps, is_slow=index < slow)
            async with gate:
                await asyncio.get_running_loop().create_connection(
                    lambda: reader, "127.0.0.1", port, local_addr=(address, 0)
                )
                self._readers.append(reader)
                if reader.opened is not None:
                    await reader.opened

        async with asyncio.TaskGroup() as tasks:
            for index, request in enumerate(requests):
                tasks.create_task(connect(index, request))
        return {"secs": time.perf_counter() - began}

    async def until(self, *, events: int) -> dict[str, Any]:
        """Wait until every client has had so many events."""
        await wait_until(lambda: min(reader.events for reader in self._readers) >= events, timeout=60, interval=0.001)
        return {}

    async def window(self, *, begin: int, end: int) -> dict[str, Any]:
        """What came between two moments, in nanoseconds."""
        within = [latency for at, latency in zip(self._stamps[0], self._stamps[1], strict=True) if begin <= at < end]
        return {
            "events": len(within),
            "p50": percentile(within, 50) / 1e6 if within else 0.0,
            "p99": percentile(within, 99) / 1e6 if within else 0.0,
            "lost": sum(reader.is_lost for reader in self._readers),
        }

    async def cpu(self) -> dict[str, Any]:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return {"secs": usage.ru_utime + usage.ru_stime}

    async def close(self) -> dict[str, Any]:
        for reader in self._readers:
            if reader.transport is not None:
                reader.transport.abort()
        self._readers.clear()
        for stamps in self._stamps:
            del stamps[:]
        return {}


async def serve(commands: dict[str, Callable[..., Coroutine[Any, Any, dict[str, Any]]]]) -> None:
    """Answer the lines on standard input until it ends."""
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.buffer.readline):
        command = orjson.loads(line)
        answer = await commands[command.pop("do")](**command)
        sys.stdout.buffer.write(orjson.dumps(answer) + b"\n")
        sys.stdout.buffer.flush()


async def main() -> None:
    clients = Clients()
    await serve(
        {
            "open": clients.open,
            "until": clients.until,
            "window": clients.window,
            "cpu": clients.cpu,
            "close": clients.close,
        }
    )


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())

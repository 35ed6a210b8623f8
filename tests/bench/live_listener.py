"""Hears every entry of every event log at the moment it is appended, in a process of its own: raw socket, hiredis.

Commands arrive as JSON, one a line; each is answered by one line.
"""

from __future__ import annotations

import array
import asyncio
import time
from typing import Any, cast

import uvloop

from tests.bench.measure import percentile
from tests.bench.relay_client import serve

DIGITS = 19


class Listener(asyncio.Protocol):
    """Looks for the stamps of the fast provider in whatever is announced."""

    def __init__(self, password: str) -> None:
        self._greeting = f"AUTH {password}\r\nPSUBSCRIBE mc:*:live\r\n".encode()
        self._rest = b""
        self.latencies = array.array("q")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast("asyncio.Transport", transport).write(self._greeting)

    def data_received(self, data: bytes) -> None:
        now = time.time_ns()
        data = self._rest + data
        position = data.find(b"@")
        end = 0
        while position != -1 and len(data) >= position + 1 + DIGITS:
            digits = data[position + 1 : position + 1 + DIGITS]
            end = position + 1
            if digits.isdigit():
                self.latencies.append(now - int(digits))
                end += DIGITS
            position = data.find(b"@", end)
        self._rest = data[position:] if position != -1 else b""


class Listening:
    async def connect(self, *, port: int, password: str) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        _, self._listener = await loop.create_connection(lambda: Listener(password), "127.0.0.1", port)
        return {}

    async def reset(self) -> dict[str, Any]:
        self._listener.latencies = array.array("q")
        return {}

    async def told(self) -> dict[str, Any]:
        latencies = self._listener.latencies
        return {
            "deltas": len(latencies),
            "p50": percentile(latencies, 50) / 1e6 if latencies else 0.0,
            "p99": percentile(latencies, 99) / 1e6 if latencies else 0.0,
        }


async def main() -> None:
    listening = Listening()
    await serve({"connect": listening.connect, "reset": listening.reset, "told": listening.told})


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())

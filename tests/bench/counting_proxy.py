"""Counts what clients ask of PostgreSQL and Valkey, exactly, by standing between them.

Of PostgreSQL it counts statements (Execute and simple Query) and round trips (Sync and simple Query); of Valkey the
commands by name. Both protocols are read by their framing alone.
Source: https://www.postgresql.org/docs/current/protocol-message-formats.html
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any, Protocol

import hiredis
import uvloop

from tests.bench.relay_client import serve

SSL_REQUEST = (80_877_103).to_bytes(4, "big")
PIECE = 65_536


class Meter(Protocol):
    def feed(self, data: bytes) -> None: ...


class PostgresMeter:
    """One connection of a client, from its first byte."""

    def __init__(self, counts: Counter[str]) -> None:
        self._counts = counts
        self._buffer = b""
        self._has_started = False

    def feed(self, data: bytes) -> None:
        self._buffer += data
        while True:
            kind = 1 if self._has_started else 0
            if len(self._buffer) < kind + 4:
                return
            length = int.from_bytes(self._buffer[kind : kind + 4], "big") + kind
            if len(self._buffer) < length:
                return
            message, self._buffer = self._buffer[:length], self._buffer[length:]
            if not self._has_started:
                self._has_started = message[4:8] != SSL_REQUEST
                continue
            name = message[:1]
            self._counts["statements"] += name in (b"E", b"Q")
            self._counts["round trips"] += name in (b"S", b"Q")


class ValkeyMeter:
    """One connection of a client; requests have the form of replies."""

    def __init__(self, counts: Counter[str]) -> None:
        self._counts = counts
        self._reader = hiredis.Reader()

    def feed(self, data: bytes) -> None:
        self._reader.feed(data)
        while (command := self._reader.gets()) is not False:
            self._counts[command[0].decode().upper()] += 1


METERS: dict[str, Callable[[Counter[str]], Meter]] = {"postgres": PostgresMeter, "valkey": ValkeyMeter}


class Proxies:
    def __init__(self) -> None:
        self._counts: dict[str, Counter[str]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def listen(self, *, name: str, kind: str, port: int) -> dict[str, Any]:
        """Stand before the server at `port`; the port to be used instead."""
        counts = self._counts[name] = Counter()

        async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            back_reader, back_writer = await asyncio.open_connection("127.0.0.1", port)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_pass_on(reader, back_writer, METERS[kind](counts)))
                tasks.create_task(_pass_on(back_reader, writer, None))

        server = await asyncio.start_server(carry, "127.0.0.1", 0)
        return {"port": server.sockets[0].getsockname()[1]}

    async def counts(self) -> dict[str, Any]:
        return {name: dict(counts) for name, counts in self._counts.items()}


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, meter: Meter | None) -> None:
    try:
        while data := await reader.read(PIECE):
            if meter is not None:
                meter.feed(data)
            writer.write(data)
            await writer.drain()
    except OSError:
        pass  # either side has gone; the other is told below
    finally:
        writer.close()


async def main() -> None:
    proxies = Proxies()
    await serve({"listen": proxies.listen, "counts": proxies.counts})


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())

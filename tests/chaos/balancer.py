"""A small TCP balancer in front of the API replicas, which can also cut connections and leave them half open."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from shared.embedded.ports import LOOPBACK
from tests.support.waiting import wait_until


@dataclass(eq=False)
class _Pair:
    """A client's connection and the one to a replica behind it."""

    writers: tuple[asyncio.StreamWriter, asyncio.StreamWriter]
    is_open: asyncio.Event = field(default_factory=asyncio.Event)
    """Cleared: nothing passes any more, and neither side is told."""


class Balancer:
    """Spreads connections over the replicas that listen at the moment."""

    def __init__(self, ports: Callable[[], list[int]], randomness: random.Random) -> None:
        self._ports = ports
        self._random = randomness
        self._pairs: set[_Pair] = set()
        self.port = 0

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        server = await asyncio.start_server(self._accept, LOOPBACK, 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield
        finally:
            server.close()
            self.cut(share=1.0)
            await wait_until(lambda: not self._pairs, message="connections remain")

    def cut(self, *, share: float) -> int:
        """Reset a share of the connections; how many."""
        chosen = [pair for pair in self._pairs if self._random.random() < share]
        for pair in chosen:
            pair.is_open.set()
            for writer in pair.writers:
                writer.transport.abort()
        return len(chosen)

    def half_open(self, *, share: float) -> int:
        """Let a share of the connections go silent without closing them; how many."""
        chosen = [pair for pair in self._pairs if self._random.random() < share]
        for pair in chosen:
            pair.is_open.clear()
        return len(chosen)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ports = self._ports()
        self._random.shuffle(ports)
        for port in ports:
            try:
                upstream_reader, upstream_writer = await asyncio.open_connection(LOOPBACK, port)
            except OSError:
                continue
            break
        else:
            writer.transport.abort()
            return
        pair = _Pair((writer, upstream_writer))
        pair.is_open.set()
        self._pairs.add(pair)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_pump(reader, upstream_writer, pair))
                tasks.create_task(_pump(upstream_reader, writer, pair))
        finally:
            self._pairs.discard(pair)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pair: _Pair) -> None:
    """Pass on until either side ends; then both do."""
    with suppress(OSError):
        while chunk := await reader.read(65_536):
            await pair.is_open.wait()
            writer.write(chunk)
            await writer.drain()
    for end in pair.writers:
        end.transport.abort()

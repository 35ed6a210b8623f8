"""A network that breaks: forwards connections to servers in turn, and cuts each after some bytes of the answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress

from shared.embedded.ports import LOOPBACK

_PIECE_BYTES = 65_536


class FlakyProxy:
    """`bytes_of(k)` is how much of its answers the k-th connection, counted from 0, delivers; None: all."""

    def __init__(self, ports: Sequence[int], bytes_of: Callable[[int], int | None]) -> None:
        self._ports = ports
        self._bytes_of = bytes_of
        self._open: dict[asyncio.Task[None] | None, list[asyncio.StreamWriter]] = {}
        self.connections = 0
        self.cuts = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = self.connections
        self.connections += 1
        server_reader, server_writer = await asyncio.open_connection(LOOPBACK, self._ports[number % len(self._ports)])
        self._open[asyncio.current_task()] = [writer, server_writer]
        limit = self._bytes_of(number)
        async with asyncio.TaskGroup() as tasks:
            upwards = tasks.create_task(_copy(reader, server_writer, None), name="proxy upwards")
            downwards = tasks.create_task(_copy(server_reader, writer, limit), name="proxy downwards")
            await asyncio.wait({upwards, downwards}, return_when=asyncio.FIRST_COMPLETED)
            if downwards.done() and downwards.result():
                self.cuts += 1
            _abort([writer, server_writer])
        del self._open[asyncio.current_task()]

    async def close(self) -> None:
        """Cut what is still connected."""
        for writers in self._open.values():
            _abort(writers)
        await asyncio.gather(*[task for task in self._open if task is not None])


@asynccontextmanager
async def flaky_proxy(
    ports: Sequence[int], bytes_of: Callable[[int], int | None]
) -> AsyncIterator[tuple[FlakyProxy, str]]:
    """The proxy and its URL."""
    proxy = FlakyProxy(ports, bytes_of)
    server = await asyncio.start_server(proxy.serve, LOOPBACK, 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield proxy, f"http://{LOOPBACK}:{port}"
    finally:
        server.close()
        await proxy.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limit: int | None) -> bool:
    """Copy to the end, or `limit` bytes; whether it was the limit."""
    left = limit
    with suppress(OSError):
        while data := await reader.read(_PIECE_BYTES):
            if left is not None:
                data = data[:left]
                left -= len(data)
            writer.write(data)
            await writer.drain()
            if left == 0:
                return True
    return False


def _abort(writers: Sequence[asyncio.StreamWriter]) -> None:
    for writer in writers:
        writer.transport.abort()

"""A network that breaks: forwards connections to servers in turn, and cuts each after some bytes of the answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress

from shared.embedded.ports import LOOPBACK

_PIECE_BYTES = 65_536


class FlakyProxy:
    """Listens at `url`; `bytes_of(k)` is how much of its answers the k-th connection, from 0, delivers; None: all."""

    def __init__(self, ports: Sequence[int], bytes_of: Callable[[int], int | None]) -> None:
        self._ports = ports
        self._bytes_of = bytes_of
        self._open: set[asyncio.Task[None]] = set()
        self.connections = 0
        self.cuts = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        task.add_done_callback(self._open.discard)
        number = self.connections
        self.connections += 1
        server_reader, server_writer = await asyncio.open_connection(LOOPBACK, self._ports[number % len(self._ports)])
        try:
            with suppress(OSError):
                await self._join(reader, writer, server_reader, server_writer, self._bytes_of(number))
        finally:
            for end in (writer, server_writer):
                end.transport.abort()

    async def close(self) -> None:
        """Cut what is still connected."""
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _join(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        server_reader: asyncio.StreamReader,
        server_writer: asyncio.StreamWriter,
        limit: int | None,
    ) -> None:
        async with asyncio.TaskGroup() as tasks:
            upwards = tasks.create_task(_copy(reader, server_writer, None), name="proxy upwards")
            downwards = tasks.create_task(_copy(server_reader, writer, limit), name="proxy downwards")
            await asyncio.wait({upwards, downwards}, return_when=asyncio.FIRST_COMPLETED)
            if downwards.done() and downwards.result():
                self.cuts += 1
            upwards.cancel()
            downwards.cancel()


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
    while data := await reader.read(_PIECE_BYTES):
        if left is not None:
            data = data[:left]
            left -= len(data)
        writer.write(data)
        await writer.drain()
        if left == 0:
            return True
    return False

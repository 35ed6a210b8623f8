"""A provider made of a socket: each test says byte by byte what it answers, and sees what reached it and when."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from shared.tasks import BackgroundTasks

STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
END_OF_CHUNKS = b"0\r\n\r\n"


@dataclass
class Exchange:
    """One request and the way to answer it."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def chunk(self, data: bytes) -> None:
        await self.send(b"%x\r\n%s\r\n" % (len(data), data))

    async def stream(self, *frames: bytes) -> None:
        await self.send(STREAM_HEAD)
        for data in frames:
            await self.chunk(data)

    async def respond(self, status: int, body: bytes = b"", **headers: str) -> None:
        lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        await self.send("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    async def closed_by_caller(self) -> float:
        """Wait for the caller to drop the connection; the loop's time of it."""
        try:
            while await self.reader.read(65_536):
                pass
        except ConnectionError:
            pass
        return asyncio.get_running_loop().time()

    def reset(self) -> None:
        self.writer.transport.abort()


Script = Callable[[Exchange], Awaitable[None]]


@dataclass
class Server:
    port: int = 0
    connections: int = 0
    exchanges: list[Exchange] = field(default_factory=list)


@asynccontextmanager
async def serving(script: Script) -> AsyncIterator[Server]:
    """A server on a free port which answers every request with `script`."""
    state = Server()
    tasks = BackgroundTasks()
    writers: list[asyncio.StreamWriter] = []

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        state.connections += 1
        try:
            while (exchange := await _read_request(reader, writer)) is not None:
                state.exchanges.append(exchange)
                await script(exchange)
                if writer.transport.is_closing():
                    break
        except ConnectionError:
            pass
        finally:
            writer.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        tasks.spawn(connect(reader, writer), name="server-connection")

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    state.port = server.sockets[0].getsockname()[1]
    try:
        yield state
    finally:
        server.close()
        await tasks.aclose()
        await drop(*writers)


async def drop(*writers: asyncio.StreamWriter) -> None:
    """Close connections for good, those included whose task ended before its first step."""
    for writer in writers:
        writer.transport.abort()
    await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)


async def _read_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Exchange | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
    except asyncio.IncompleteReadError:
        return None
    request_line, *lines = head.strip().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    method, target = request_line.split()[:2]
    return Exchange(method, target, headers, body, reader, writer)

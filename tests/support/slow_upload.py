"""An upload over a connection of its own, sent piece by piece as a test likes it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

import httpx

from tests.support.api import BASE
from tests.support.uploads import FORM, attachments_path, body, part


@dataclass(frozen=True)
class SlowUpload:
    """The file is `size` bytes long."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    size: int

    async def send(self, size: int) -> None:
        """So many bytes of the file."""
        self.writer.write(b"x" * size)
        await self.writer.drain()

    async def finish(self) -> None:
        """What comes after the file."""
        self.writer.write(_TAIL)
        await self.writer.drain()

    async def answer(self) -> tuple[int, Mapping[str, str]]:
        """The status and the headers, in lower case."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        status, *lines = head.strip().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        return int(status.split()[1]), headers

    def leave(self) -> None:
        """Without a word."""
        self.writer.transport.abort()

    @classmethod
    @asynccontextmanager
    async def to(cls, client: httpx.AsyncClient, chat_id: str, *, size: int) -> AsyncIterator[Self]:
        """Connect as `client`, and send all that comes before the file."""
        parts = urlsplit(str(client.base_url))
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        headers = {
            "Host": parts.netloc,
            "Authorization": client.headers["Authorization"],
            "Content-Type": FORM,
            "Content-Length": str(len(_HEAD) + size + len(_TAIL)),
        }
        lines = [
            f"POST {BASE}{attachments_path(chat_id)} HTTP/1.1",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        writer.write("\r\n".join([*lines, "", ""]).encode() + _HEAD)
        try:
            await writer.drain()
            yield cls(reader, writer, size)
        finally:
            writer.transport.abort()


_HEAD = part(b"", filename="large.txt").removesuffix(b"\r\n")
_TAIL = b"\r\n" + body()

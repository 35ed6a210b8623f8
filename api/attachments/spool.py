"""A file without a name, on the disk of temporary files, that an upload waits in: memory does not grow with its size.

What touches the disk runs in threads. Nothing is left when the process dies.
"""

from __future__ import annotations

import asyncio
import threading
from tempfile import TemporaryFile
from types import TracebackType
from typing import BinaryIO, Final, Self

from shared.attachments.errors import FileTooLargeError

WRITE_BYTES: Final = 256 * 1024
"""What is gathered before it is written: few visits to a thread, and little memory."""


class Spool:
    """Open within its block. One caller at a time.

    Args:
        max_bytes: what it takes.
    """

    def __init__(self, *, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._gathered = bytearray()
        self._file: BinaryIO
        self._in_use = threading.Lock()
        self.size_bytes = 0

    async def __aenter__(self) -> Self:
        self._file = TemporaryFile(buffering=0)  # noqa: SIM115 (closed below; to open it is no work for a disk)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A cancelled write goes on in its thread: the descriptor must not become another file's under its hands.
        with self._in_use:
            self._file.close()

    async def write(self, piece: bytes) -> None:
        """
        Raises:
            FileTooLargeError: it would hold more than it takes.
        """
        self.size_bytes += len(piece)
        if self.size_bytes > self._max_bytes:
            raise FileTooLargeError
        self._gathered += piece
        if len(self._gathered) >= WRITE_BYTES:
            await self._flush()

    async def rewound(self) -> BinaryIO:
        """The file with all that was written, at its beginning; to be read before the block ends."""
        await self._flush()
        self._file.seek(0)
        return self._file

    async def _flush(self) -> None:
        gathered, self._gathered = self._gathered, bytearray()
        if gathered:
            await asyncio.to_thread(self._write, gathered)

    def _write(self, data: bytearray) -> None:
        with self._in_use:
            rest = memoryview(data)
            while rest:
                rest = rest[self._file.write(rest) :]

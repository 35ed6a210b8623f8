"""Where an upload waits."""

from __future__ import annotations

import asyncio
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.attachments import spool as module
from api.attachments.spool import Spool
from shared.attachments.errors import FileTooLargeError


@given(st.lists(st.binary(max_size=50), max_size=20), st.integers(1, 60))
async def test_what_is_written_is_read_as_often_as_wanted(pieces: list[bytes], write_bytes: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "WRITE_BYTES", write_bytes)
        async with Spool(max_bytes=1_000) as spool:
            for piece in pieces:
                await spool.write(piece)
            whole = b"".join(pieces)
            assert spool.size_bytes == len(whole)
            for _ in range(2):
                assert (await spool.rewound()).read() == whole


async def test_it_takes_no_byte_too_many() -> None:
    async with Spool(max_bytes=3) as spool:
        await spool.write(b"abc")
        with pytest.raises(FileTooLargeError):
            await spool.write(b"d")


async def test_a_cancelled_write_ends_before_the_file_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it might end in a file that has been given the same descriptor."""
    monkeypatch.setattr(module, "WRITE_BYTES", 1)
    writing, go_on, states = threading.Event(), threading.Event(), []

    async def write() -> None:
        async with Spool(max_bytes=10) as spool:
            file = spool._file

            class Slow:
                def write(self, data: bytes) -> int:
                    writing.set()
                    go_on.wait(5)
                    states.append(file.closed)
                    return file.write(data)

                def close(self) -> None:
                    file.close()

            spool._file = Slow()  # type: ignore[assignment]
            await spool.write(b"x")

    task = asyncio.ensure_future(write())
    await asyncio.to_thread(writing.wait, 5)
    task.cancel()
    threading.Timer(0.05, go_on.set).start()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert states == [False]

"""Reading multipart bodies as they arrive."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.attachments import multipart
from api.attachments.multipart import MultipartReader, PartHead, boundary_of
from shared.attachments.errors import FileTooLargeError
from shared.errors import InvalidError
from tests.support.uploads import BOUNDARY, FORM, body, part, small_pieces

NOTES = PartHead("file", "notes.txt", "text/plain")


async def arriving(pieces: Sequence[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


def reader_of(*pieces: bytes, max_bytes: int = 10**9) -> MultipartReader:
    return MultipartReader(arriving(pieces), BOUNDARY.encode(), max_bytes=max_bytes)


async def read(reader: MultipartReader) -> list[tuple[PartHead, bytes]]:
    parts = []
    while (head := await reader.next_part()) is not None:
        parts.append((head, b"".join([piece async for piece in reader.data()])))
    return parts


@given(
    st.lists(st.binary(max_size=200) | st.sampled_from([b"\r\n--a-bound", b"\r\n--", b"\r\n" * 40]), max_size=4),
    st.lists(st.integers(0, 60), max_size=40),
)
async def test_however_it_is_cut_the_parts_are_the_same(contents: list[bytes], sizes: list[int]) -> None:
    whole = body(*(part(content) for content in contents))
    reader = reader_of(*small_pieces(whole, sizes))
    if not contents:
        assert await reader.next_part() is None
        return
    assert await read(reader) == [(NOTES, content) for content in contents]
    assert reader.received >= len(whole.rstrip())


async def test_parts_that_are_not_asked_for_are_skipped() -> None:
    reader = reader_of(body(part(b"x" * 1_000, name="other"), part(b"yes"), part(b"after")))
    heads = [await reader.next_part(), await reader.next_part()]
    assert [head and head.name for head in heads] == ["other", "file"]
    assert [piece async for piece in reader.data()] == [b"yes"]
    await reader.finish()


async def test_heads_say_what_the_headers_say() -> None:
    plain = b'content-disposition: form-data; name="file"'
    star = plain + b"; filename=\"a.txt\"; filename*=UTF-8''b.txt"
    latin = plain + b'; filename="caf\xe9 \xc3\xbc"'
    lines = [
        plain,
        star,
        latin,
        b'Content-Disposition: attachment; name="file"',
        b"X-Other: 1",
        plain + b"\r\n" + plain,
    ]
    whole = b"".join(b"--" + BOUNDARY.encode() + b"\r\n" + line + b"\r\n\r\n\r\n" for line in lines)
    heads = [head for head, _ in await read(reader_of(body(whole)))]
    assert [(head.name, head.filename) for head in heads] == [
        ("file", None),
        ("file", "a.txt"),
        ("file", "caf\ufffd ü"),
        (None, None),
        (None, None),
        ("file", None),
    ]
    assert {head.content_type for head in heads} == {None}


@pytest.mark.parametrize(
    "whole",
    [
        b"",
        b"nonsense",
        body(part())[:-10],
        body(part())[: len(part()) - 3],
        part(),
        part()[:30],
        b"--other\r\n\r\n--other--\r\n",
        body(part(filename="x" * 20_000)),
        body(b"--a-boundary\r\n" + b"".join(b"A%d: 1\r\n" % n for n in range(99)) + b"\r\n\r\n"),
        body(b"--a-boundary\r\nbad header\r\n\r\n\r\n"),
    ],
)
async def test_bodies_that_are_wrong_or_cut_short_are_refused(whole: bytes) -> None:
    for pieces in ([whole], [whole[:20], whole[20:]], [bytes([byte]) for byte in whole]):
        with pytest.raises(InvalidError):
            await read(reader_of(*pieces))


async def test_no_more_is_read_than_a_body_may_have() -> None:
    taken = []

    async def endless() -> AsyncIterator[bytes]:
        yield part(b"x").rstrip()
        while True:
            taken.append(1)
            yield b"y" * 1_000

    reader = MultipartReader(endless(), BOUNDARY.encode(), max_bytes=10_000)
    await reader.next_part()
    with pytest.raises(FileTooLargeError):
        [piece async for piece in reader.data()]
    assert len(taken) <= 11


async def test_a_client_that_falls_silent_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async def silent() -> AsyncIterator[bytes]:
        yield part()[:40]
        await asyncio.sleep(60)

    monkeypatch.setattr(multipart, "IDLE_SECS", 0.01)
    reader = MultipartReader(silent(), BOUNDARY.encode(), max_bytes=10_000)
    with pytest.raises(InvalidError, match="stopped"):
        await reader.next_part()


@given(st.binary(max_size=500), st.integers(0, 400))
async def test_the_length_of_a_last_part_is_known_before_it_is_read(content: bytes, first: int) -> None:
    whole = body(part(content))
    reader = reader_of(whole[: len(part(b"")) - 2 + first], whole[len(part(b"")) - 2 + first :])
    await reader.next_part()
    # What may be the beginning of the boundary is held back, so that less than its length may be missing.
    expected = reader.expected_bytes(len(whole))
    assert len(content) - len(BOUNDARY) - 8 <= expected <= len(content)
    assert expected == len(content) or first > 0


@pytest.mark.parametrize(
    "value", [None, "", "text/plain", "application/json", "multipart/form-data", "multipart/mixed; boundary=x"]
)
def test_a_form_needs_its_boundary(value: str | None) -> None:
    with pytest.raises(InvalidError):
        boundary_of(value)


def test_the_boundary_is_taken_from_the_header() -> None:
    assert boundary_of(FORM) == BOUNDARY.encode()
    assert boundary_of('Multipart/Form-Data; charset=x; boundary="a b"') == b"a b"


def test_a_boundary_longer_than_any_client_makes_is_refused() -> None:
    with pytest.raises(InvalidError):
        MultipartReader(arriving([]), b"x" * 300, max_bytes=1)

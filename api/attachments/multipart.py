"""Reads `multipart/form-data` as it arrives: a pull parser over a push parser, which holds one chunk at a time.

The parts are those of RFC 7578; nested ones, and names in the style of RFC 5987, which it forbids, are not looked at.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final, Literal

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from shared.attachments.errors import FileTooLargeError
from shared.errors import InvalidError

MAX_HEADER_BYTES: Final = 16 * 1024
"""Of one header of a part: a name of a file may be long, and is cut later."""
IDLE_SECS: Final = 30
"""The longest silence of a client; who sends nothing for longer would hold what others wait for."""

# It warns of each body that is malformed, which is the client's affair and is answered to the client.
logging.getLogger("python_multipart").setLevel(logging.ERROR)


@dataclass(frozen=True, slots=True)
class PartHead:
    """What the headers of a part say; None: they do not."""

    name: str | None
    filename: str | None
    content_type: str | None


def boundary_of(content_type: str | None) -> bytes:
    """The boundary between the parts.

    Raises:
        InvalidError: the type is another one, or has none.
    """
    media_type, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if media_type != b"multipart/form-data" or not boundary:
        raise InvalidError("The body must be multipart/form-data with a boundary")
    return boundary


class MultipartReader:
    """The parts of one body, in order, each once.

    Every method that reads may raise InvalidError (malformed, cut short, or silent for too long) and
    FileTooLargeError (longer than `max_bytes`), besides what `chunks` raises.

    Attributes:
        max_bytes: of the whole body; may be lowered on the way.
        received: bytes of the body so far.
    """

    def __init__(self, chunks: AsyncIterator[bytes], boundary: bytes, *, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.received = 0
        self._chunks = chunks
        self._closing_bytes = len(b"\r\n--" + boundary + b"--\r\n")
        self._parsed: deque[PartHead | bytes | Literal["part end", "end"]] = deque()
        self._headers: dict[bytes, bytes] = {}
        self._field, self._value = bytearray(), bytearray()
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._headers.clear,
                    "on_header_field": self._on_header_field,
                    "on_header_value": self._on_header_value,
                    "on_header_end": self._on_header_end,
                    "on_headers_finished": self._on_headers_finished,
                    "on_part_data": self._on_part_data,
                    "on_part_end": lambda: self._parsed.append("part end"),
                    "on_end": lambda: self._parsed.append("end"),
                },
                max_header_size=MAX_HEADER_BYTES,
            )
        except FormParserError:
            raise InvalidError("The multipart boundary is too long") from None

    def expected_bytes(self, content_length: int) -> int:
        """How long the current part will be, if it is the last one of a body of that length; not before its data."""
        arrived = 0
        for item in self._parsed:
            if not isinstance(item, bytes):
                return arrived
            arrived += len(item)
        return max(0, content_length - (self.received - arrived) - self._closing_bytes)

    async def next_part(self) -> PartHead | None:
        """The head of the next part; what is left of the one before is skipped. None at the end."""
        while (item := await self._next()) != "end":
            if isinstance(item, PartHead):
                return item
        return None

    async def data(self) -> AsyncIterator[bytes]:
        """The content of the current part, in pieces that are not empty."""
        while isinstance(item := await self._next(), bytes):
            yield item

    async def finish(self) -> None:
        """Read on to the end: only then is the body known to be whole."""
        while await self._next() != "end":
            pass

    async def _next(self) -> PartHead | bytes | Literal["part end", "end"]:
        while not self._parsed:
            await self._receive()
        return self._parsed.popleft()

    async def _receive(self) -> None:
        """Take one more chunk, unless there have been too many; what is there already is looked at in any case."""
        if self.received > self.max_bytes:
            raise FileTooLargeError
        try:
            async with asyncio.timeout(IDLE_SECS):
                chunk = await anext(self._chunks, None)
        except TimeoutError:
            raise InvalidError("The body has stopped to arrive") from None
        if chunk is None:
            raise InvalidError("The multipart body is cut short")
        self.received += len(chunk)
        try:
            self._parser.write(chunk)
        except FormParserError:
            raise InvalidError("The multipart body is malformed") from None

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        self._headers.setdefault(bytes(self._field).lower(), bytes(self._value))
        self._field.clear()
        self._value.clear()

    def _on_headers_finished(self) -> None:
        disposition, options = parse_options_header(self._headers.get(b"content-disposition"))
        is_form_data = disposition == b"form-data"
        content_type = self._headers.get(b"content-type", b"").decode("latin-1").strip()
        self._parsed.append(
            PartHead(
                name=_text(options.get(b"name")) if is_form_data else None,
                filename=_text(options.get(b"filename")) if is_form_data else None,
                content_type=content_type or None,
            )
        )

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._parsed.append(data[start:end])


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode(errors="replace")

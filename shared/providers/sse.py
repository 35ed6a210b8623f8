"""Server-sent events from bytes, incrementally, as the HTML standard parses them, with two deliberate differences.

Lines end in LF, CR or CRLF, also one torn between two chunks; a leading BOM is dropped; comments, `id` and `retry` are
ignored; `data` lines of one event are joined by LF; an event without a `data` line is not reported. Differences: what
stands before the end of the stream counts as an event even if its blank line is missing (servers forget it), and an
event that does not end within `max_event_bytes` is an error instead of unbounded memory.

The names stay as sent (`""` if there was none) and the data stays undecoded, so that a reader pays only for the events
it wants. Source: https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

from __future__ import annotations

from collections.abc import Iterable

ServerEvent = tuple[str, bytes]
"""The `event` field, `""` if absent, and the data as UTF-8 bytes."""

MAX_EVENT_BYTES = 4 * 1024 * 1024
"""A terminal event repeats the whole answer and its annotations; 4 MiB is far beyond any output budget."""
_BOM = b"\xef\xbb\xbf"


class EventTooLargeError(ValueError):
    """An event did not end within the limit."""


class SseParser:
    """Feed it chunks, get events; one instance per response."""

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max_event_bytes = max_event_bytes
        self._buffer = bytearray()
        self._after_cr = False
        self._at_start = True

    def feed(self, chunk: bytes) -> list[ServerEvent]:
        """The events that `chunk` completes, in order.

        Raises:
            EventTooLargeError: more than `max_event_bytes` without the end of an event.
        """
        chunk = self._with_line_feeds(chunk)
        buffer = self._buffer
        resume_at = max(len(buffer) - 1, 0)  # a blank line may begin with the last byte we have
        buffer += chunk
        if buffer.find(b"\n\n", resume_at) < 0:
            if len(buffer) > self._max_event_bytes:
                raise EventTooLargeError(f"no end of an event within {self._max_event_bytes} bytes")
            return []
        blocks = bytes(buffer).split(b"\n\n")
        self._buffer = bytearray(blocks.pop())
        return self._parse(blocks)

    def finish(self) -> list[ServerEvent]:
        """What is left at the end of the stream: at most one event that lacks its blank line."""
        block, self._buffer = bytes(self._buffer), bytearray()
        return self._parse([block])

    def _with_line_feeds(self, chunk: bytes) -> bytes:
        """`chunk` with every line end as LF. A CR ends its line at once; an LF that follows it is dropped."""
        if self._after_cr and chunk:
            self._after_cr = False
            if chunk.startswith(b"\n"):
                chunk = chunk[1:]
        if b"\r" not in chunk:
            return chunk
        self._after_cr = chunk.endswith(b"\r")
        return chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _parse(self, blocks: Iterable[bytes]) -> list[ServerEvent]:
        events = []
        for block in blocks:
            if self._at_start:
                self._at_start = False
                block = block.removeprefix(_BOM)  # noqa: PLW2901 (only the first one can hold it)
            event = _parse_block(block)
            if event is not None:
                events.append(event)
        return events


def _parse_block(block: bytes) -> ServerEvent | None:
    if block.startswith(b"data: ") and b"\n" not in block:
        return "", block[6:]
    name = b""
    data: list[bytes] = []
    for line in block.split(b"\n"):
        field, _, value = line.partition(b":")
        if field == b"data":
            data.append(value.removeprefix(b" "))
        elif field == b"event":
            name = value.removeprefix(b" ")
    if not data:
        return None
    return name.decode("utf-8", "replace"), data[0] if len(data) == 1 else b"\n".join(data)

"""The event-stream parser: one meaning whatever the chunks and line ends."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.providers.sse import EventTooLargeError, ServerEvent, SseParser

SAMPLE = (
    b"\xef\xbb\xbf: hello\r\n\r\n"
    b'event: a\r\ndata: {"x":1}\r\n\r\n'
    b"data: one\rdata:two\rid: 7\revent: b\r\r"
    b"retry: 10\n\n\n"
    b"data\n\n"
    b"data: [DONE]\n\n"
)
SAMPLE_EVENTS: list[ServerEvent] = [("a", b'{"x":1}'), ("b", b"one\ntwo"), ("", b""), ("", b"[DONE]")]


def parse(*chunks: bytes) -> list[ServerEvent]:
    parser = SseParser()
    return [event for chunk in chunks for event in parser.feed(chunk)] + parser.finish()


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(position % (len(data) + 1) for position in cuts), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


def test_every_pair_of_cuts_gives_the_same_events() -> None:
    for first in range(len(SAMPLE) + 1):
        for second in range(first, len(SAMPLE) + 1):
            assert parse(SAMPLE[:first], SAMPLE[first:second], SAMPLE[second:]) == SAMPLE_EVENTS


def test_byte_by_byte() -> None:
    assert parse(*(bytes([byte]) for byte in SAMPLE)) == SAMPLE_EVENTS


LINE_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=12)
EVENT = st.tuples(LINE_TEXT, st.lists(LINE_TEXT, min_size=1, max_size=3), st.sampled_from(["\n", "\r", "\r\n"]))


@given(events=st.lists(EVENT, max_size=6), comment=LINE_TEXT, cuts=st.lists(st.integers(0, 10_000), max_size=12))
def test_what_was_written_is_read(events: list[tuple[str, list[str], str]], comment: str, cuts: list[int]) -> None:
    """Any text in any mixture of line ends survives any chunking; comments disappear."""
    stream = ""
    for name, lines, end in events:
        fields = [f":{comment}", f"event: {name}", *(f"data: {line}" for line in lines), "", ""]
        stream += end.join(fields)
    expected = [(name, "\n".join(lines).encode()) for name, lines, _ in events]
    assert parse(*cut(stream.encode(), cuts)) == expected


@given(
    pieces=st.lists(
        st.sampled_from([b"\r", b"\n", b"data", b"data:", b": ", b"event:", b"x", b"\xef\xbb\xbf", b"\xff", b" "]),
        max_size=40,
    ),
    cuts=st.lists(st.integers(0, 10_000), max_size=20),
)
def test_chunking_never_matters(pieces: list[bytes], cuts: list[int]) -> None:
    data = b"".join(pieces)
    assert parse(*cut(data, cuts)) == parse(data)


@given(value=st.recursive(st.none() | st.integers() | st.text(), st.lists, max_leaves=5))
def test_pretty_printed_json_survives_as_data_lines(value: object) -> None:
    lines = json.dumps(value, indent=1).split("\n")
    (event,) = parse("".join(f"data: {line}\n" for line in lines).encode() + b"\n")
    assert json.loads(event[1]) == value


def test_a_cr_ends_its_event_before_the_next_byte_comes() -> None:
    parser = SseParser()
    assert parser.feed(b"data: x\r\r") == [("", b"x")]
    assert parser.feed(b"\ndata: y\n\n") == [("", b"y")]


@pytest.mark.parametrize("rest", [b"data: x", b"data: x\n", b"data: x\r"])
def test_the_last_event_may_lack_its_blank_line(rest: bytes) -> None:
    assert parse(rest) == [("", b"x")]


def test_an_event_without_data_is_none() -> None:
    assert parse(b"event: ping\n\n", b": comment\n\n", b"\n\n\n") == []


def test_only_one_space_belongs_to_the_field() -> None:
    assert parse(b"data:  x\n\n") == [("", b" x")]


def test_memory_is_bounded() -> None:
    parser = SseParser(max_event_bytes=100)
    assert parser.feed(b"data: " + b"x" * 90) == []
    with pytest.raises(EventTooLargeError):
        parser.feed(b"x" * 10)


def test_many_events_do_not_count_as_a_large_one() -> None:
    parser = SseParser(max_event_bytes=20)
    assert len(parser.feed(b"data: x\n\n" * 100)) == 100

"""What every stream of a turn obeys, whatever it tells."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from tests.support.sse import Event

_ENTRY_ID = re.compile(r"(\d{1,10})-(\d{1,10})")
_CONTENT = ("delta", "tool")


def assert_well_formed(events: Sequence[Event]) -> None:
    """Check a stream that was read from its start to its end: grammar, ids, and one terminal event, the last one.

    A ping repeats the id of the frame before it and comes only while no content has followed the start.
    """
    names = [event.name for event in events]
    assert names[0] == "stream_started"
    assert names.count("stream_started") == 1
    assert [event for event in events if event.is_terminal] == [events[-1]]
    assert names.count("citations") <= 1
    if "citations" in names:
        assert names[-2] == "citations"
    in_content = False
    for previous, event in pairwise(events):
        in_content = (in_content or previous.name in _CONTENT) and previous.name != "restart"
        if event.name == "ping":
            assert not in_content
            assert event.id == previous.id
    assert_increasing([event for event in events if event.name != "ping"])


def assert_increasing(events: Sequence[Event]) -> None:
    """Check that every event has an id and each is greater than the one before."""
    positions = [entry_position(event.id) for event in events]
    assert positions == sorted(set(positions))


def entry_position(event_id: str) -> tuple[int, int]:
    """The id of a logged event, comparable."""
    match = _ENTRY_ID.fullmatch(event_id)
    assert match, f"{event_id!r} is not the id of a logged event"
    return int(match[1]), int(match[2])

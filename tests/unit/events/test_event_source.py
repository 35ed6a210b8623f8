"""What silence and a drain put on the wire, as a browser's `EventSource` reads it."""

from __future__ import annotations

import httpx
import pytest

from shared.events import frames
from shared.events.ids import EntryId
from tests.support.event_source import EventSource, EventStreamParser


def a_source(*, last_event_id: str) -> EventSource:
    """A source that has just connected again, after the event `last_event_id`."""
    return EventSource(httpx.AsyncClient(), "/events", last_event_id=last_event_id)


@pytest.mark.parametrize("silence", [frames.KEEP_ALIVE, frames.retry(700), frames.KEEP_ALIVE + frames.retry(700)])
def test_what_is_no_event_leaves_the_place_alone(silence: bytes) -> None:
    """A connection that ends before its first event must not make the client forget where it was.

    A blank line makes the id that the connection has named so far the client's place; there is none yet.
    """
    source = a_source(last_event_id="1-7")

    EventStreamParser(source).feed(silence.decode())

    assert source.last_event_id == "1-7"
    assert source.messages == []


def test_a_retry_sets_the_time_until_the_next_attempt() -> None:
    source = a_source(last_event_id="1-7")

    EventStreamParser(source).feed(frames.retry(700).decode())

    assert source.reconnection_secs == 0.7


def test_a_ping_repeats_the_place() -> None:
    source = a_source(last_event_id="1-7")

    EventStreamParser(source).feed(frames.ping(EntryId(1, 7)).decode())

    assert source.last_event_id == "1-7"
    assert [message.event for message in source.messages] == ["ping"]

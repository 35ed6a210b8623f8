"""Frames on the wire, read back by a parser that knows only the format."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shared.events import frames
from shared.events.frames import DoneUsage
from shared.events.ids import EntryId
from shared.ids import new_uuid4
from tests.support.sse import Event, SseParser

any_text = st.text(st.characters(exclude_categories=["Cs"]))


def parse(wire: bytes) -> list[Event]:
    return SseParser().feed(wire.decode())


@given(any_text)
def test_any_text_survives_a_delta(text: str) -> None:
    """Line ends of every kind and separators that some parsers break at stay inside the data."""
    [event] = parse(frames.delta(text).with_id(EntryId(1, 7)))
    assert event == Event("1-7", "delta", {"type": "text", "content": text})


@given(st.lists(any_text, min_size=1, max_size=5))
def test_frames_can_be_joined(texts: list[str]) -> None:
    wire = b"".join(frames.delta(text).with_id(EntryId(1, index)) for index, text in enumerate(texts))
    assert [event.data["content"] for event in parse(wire)] == texts


def test_fields_stand_in_order() -> None:
    assert frames.delta("Hel").with_id(EntryId(1, 7)) == (
        b'id: 1-7\nevent: delta\ndata: {"type":"text","content":"Hel"}\n\n'
    )


def test_the_first_frame_is_small() -> None:
    frame = frames.stream_started(request_id=new_uuid4(), message_id=new_uuid4(), is_new_turn=True)
    assert len(frame.with_id(EntryId(0, 1))) < 200


def test_a_downgrade_is_told_only_where_there_is_one() -> None:
    usage = DoneUsage(50, 12, "std")
    allowed = frames.done(usage=usage, effective_model="std", selected_model="std", quota_decision="allow")
    [event] = parse(allowed.with_id("1-1"))
    assert event.data == {
        "usage": {"input_tokens": 50, "output_tokens": 12, "model": "std"},
        "effective_model": "std",
        "selected_model": "std",
        "quota_decision": "allow",
    }
    downgraded = frames.done(
        usage=None,
        effective_model="std",
        selected_model="prem",
        quota_decision="downgrade",
        downgrade_from="prem",
        downgrade_reason="model_disabled",
    )
    [event] = parse(downgraded.with_id("1-1"))
    assert event.data["usage"] is None
    assert (event.data["downgrade_from"], event.data["downgrade_reason"]) == ("prem", "model_disabled")


def test_a_ping_repeats_an_id_and_says_nothing() -> None:
    assert parse(frames.ping("0-1")) == [Event("0-1", "ping", {})]

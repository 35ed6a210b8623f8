from __future__ import annotations

import pytest
from opentelemetry.trace import get_current_span

from shared.trace import current_trace_id, current_traceparent, received, span, start_span, trace_id_of

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize(
    "header",
    [
        f"00-{TRACE}-{SPAN}-01",
        f" 00-{TRACE}-{SPAN}-00 ",
        f"00-{TRACE}-{SPAN}-fe",
        f"cc-{TRACE}-{SPAN}-01-what-the-future-will-be-like",
    ],
)
def test_a_good_header_is_continued(header: str) -> None:
    assert trace_id_of(start_span("work", within=received(header))) == TRACE


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "nonsense",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-01-more",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
    ],
)
def test_anything_else_begins_a_new_trace(header: str | None) -> None:
    ids = {trace_id_of(start_span("work", within=received(header))) for _ in range(2)}
    assert len(ids) == 2
    assert TRACE not in ids
    assert all(trace_id is not None and len(trace_id) == 32 for trace_id in ids)


def test_a_new_trace_does_not_continue_the_one_that_is_current() -> None:
    with span("outer", within=received(f"00-{TRACE}-{SPAN}-01")):
        assert trace_id_of(start_span("work", within=received(None))) != TRACE


@pytest.mark.parametrize("flags", ["00", "01"])
def test_what_is_called_gets_the_trace_and_the_wish_to_sample_it(flags: str) -> None:
    assert (current_trace_id(), current_traceparent()) == (None, None)
    with span("work", within=received(f"00-{TRACE}-{SPAN}-{flags}")):
        assert current_trace_id() == TRACE
        sent = current_traceparent()
    assert sent is not None
    assert sent.startswith(f"00-{TRACE}-")
    assert sent.endswith(flags)
    assert current_trace_id() is None


def test_a_trace_that_begins_here_is_told_to_be_sampled() -> None:
    with span("work"):
        trace_id = current_trace_id()
        assert current_traceparent() == f"00-{trace_id}-{get_current_span().get_span_context().span_id:016x}-01"

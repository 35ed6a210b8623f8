from __future__ import annotations

import pytest

from shared.trace import TraceContext

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize(
    ("header", "is_sampled"),
    [
        (f"00-{TRACE}-{SPAN}-01", True),
        (f" 00-{TRACE}-{SPAN}-00 ", False),
        (f"00-{TRACE}-{SPAN}-fe", False),
        (f"cc-{TRACE}-{SPAN}-01-what-the-future-will-be-like", True),
    ],
)
def test_a_good_header_gives_a_child_in_the_same_trace(header: str, is_sampled: bool) -> None:
    trace = TraceContext.from_header(header)
    assert (trace.trace_id, trace.is_sampled) == (TRACE, is_sampled)
    assert trace.span_id != SPAN


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
    trace = TraceContext.from_header(header)
    assert trace.trace_id != TRACE
    assert len(trace.trace_id) == 32


def test_a_header_survives_the_way() -> None:
    for trace in (TraceContext.new(), TraceContext(TRACE, SPAN, is_sampled=False)):
        received = TraceContext.from_header(trace.header)
        assert (received.trace_id, received.is_sampled) == (trace.trace_id, trace.is_sampled)
        assert trace.child().span_id != trace.span_id

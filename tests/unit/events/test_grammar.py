"""The order of events within a turn."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.events.grammar import GrammarError, Phase, advance

EVENTS = ("stream_started", "ping", "delta", "tool", "restart", "citations", "done", "error")


def run(events: list[str]) -> Phase:
    phase = Phase.IDLE
    for event in events:
        phase = advance(phase, event)
    return phase


segment = st.tuples(
    st.lists(st.just("ping"), max_size=3), st.lists(st.sampled_from(["delta", "tool"]), max_size=5)
).map(lambda parts: parts[0] + parts[1])


@given(
    st.lists(segment, min_size=1, max_size=4),
    st.booleans(),
    st.sampled_from(["done", "error"]),
)
def test_every_sentence_of_the_grammar_is_accepted(segments: list[list[str]], cites: bool, end: str) -> None:
    """stream_started, segments that a restart separates, perhaps citations, and one end."""
    words = ["stream_started"]
    for index, part in enumerate(segments):
        words += (["restart"] if index else []) + part
    words += [*(["citations"] if cites else []), end]
    assert run(words) is Phase.TERMINAL


@given(st.lists(st.sampled_from(EVENTS), max_size=12))
def test_nothing_else_is(words: list[str]) -> None:
    """Whatever is accepted starts with the start, ends at its first end, and pings only before content."""
    try:
        run(words)
    except GrammarError:
        return
    if not words:
        return
    assert words[0] == "stream_started" or words == [words[0]]
    assert "stream_started" not in words[1:]
    assert not {"done", "error"} & set(words[:-1])
    if "citations" in words:
        assert set(words[words.index("citations") + 1 :]) <= {"done", "error"}
    for index, word in enumerate(words):
        if word == "ping":
            assert words[index - 1] in ("stream_started", "restart", "ping")


@pytest.mark.parametrize(
    ("phase", "pings"), [(Phase.STARTED, True), (Phase.PINGING, True), (Phase.STREAMING, False), (Phase.CITED, False)]
)
def test_pings_fill_silence_before_content_only(phase: Phase, pings: bool) -> None:
    assert phase.pings is pings

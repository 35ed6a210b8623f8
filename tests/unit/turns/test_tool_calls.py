"""How many tool calls a turn may have, and which one is too many."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.events.frames import ToolName
from shared.settings import QuotaSettings
from shared.turns.lifecycle import ERROR_MESSAGES
from worker.turns.tool_calls import EXCEEDED_CODES, ToolCounter

names: st.SearchStrategy[ToolName] = st.sampled_from(["file_search", "web_search", "code_interpreter"])
LIMITS = QuotaSettings(web_search_max_calls_per_message=2, code_interpreter_max_calls_per_message=3)


def test_the_third_search_of_two_is_too_many() -> None:
    counter = ToolCounter.with_settings(LIMITS)
    assert [counter.start("web_search") for _ in range(3)] == [None, None, "web_search_calls_exceeded"]


def test_file_searches_are_only_counted() -> None:
    counter = ToolCounter.with_settings(LIMITS)
    assert [counter.start("file_search") for _ in range(100)] == [None] * 100
    assert counter.started["file_search"] == 100


@given(st.lists(names))
def test_each_tool_has_its_own_limit(calls: list[ToolName]) -> None:
    counter = ToolCounter.with_settings(LIMITS)
    refused = [name for name in calls if counter.start(name) is not None]
    assert refused.count("web_search") == max(0, calls.count("web_search") - 2)
    assert refused.count("code_interpreter") == max(0, calls.count("code_interpreter") - 3)
    assert "file_search" not in refused


@pytest.mark.parametrize("code", EXCEEDED_CODES.values())
def test_clients_are_told_in_words(code: str) -> None:
    assert "exceeded for this message" in ERROR_MESSAGES[code]

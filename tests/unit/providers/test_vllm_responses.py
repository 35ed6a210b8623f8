"""The vLLM dialect: a smaller body, and thinking told from the answer whatever the chunking."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.turns.context import PlannedMessage
from tests.unit.providers.factories import EARLIER, TENANT, USER, a_model, a_request
from worker.providers.base import Completed, ProviderEvent, ReasoningDelta, TextDelta
from worker.providers.vllm_responses import ThinkSplitter, VllmTranslator, build_body


def test_body() -> None:
    request = a_request(
        model=a_model(temperature=0.5, extra_body={"chat_template_kwargs": {"enable_thinking": True}}),
        instructions="You are kind.",
        history=(*EARLIER, PlannedMessage("user", "And now?")),
        tools=({"type": "web_search"},),
    )
    assert build_body(request) == {
        "model": "gpt-x",
        "stream": True,
        "instructions": "You are kind.",
        "input": [
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "earlier question"}]},
            {"type": "message", "role": "assistant", "content": "earlier answer"},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "And now?"}]},
        ],
        "max_output_tokens": 8_192,
        "user": f"{TENANT}:{USER}",
        "temperature": 0.5,
        "chat_template_kwargs": {"enable_thinking": True},
    }


def split(*deltas: str) -> tuple[str, str]:
    """Answer and reasoning."""
    splitter = ThinkSplitter()
    events: list[ProviderEvent] = [event for delta in deltas for event in splitter.feed(delta)]
    events += splitter.finish()
    answer = "".join(event.text for event in events if isinstance(event, TextDelta))
    return answer, "".join(event.text for event in events if isinstance(event, ReasoningDelta))


@pytest.mark.parametrize(
    ("text", "answer", "reasoning"),
    [
        ("<think>hm</think>Yes", "Yes", "hm"),
        ("a<think>b</think>c<think>d</think>e", "ace", "bd"),
        ("<think>never closed", "", "never closed"),
        ("stray</think> close", "stray close", ""),
        ("1 < 2 and <b>bold</b> <thin", "1 < 2 and <b>bold</b> <thin", ""),
        ("<<think>x</think><", "<<", "x"),
        ("", "", ""),
    ],
)
def test_every_chunking_gives_the_same_split(text: str, answer: str, reasoning: str) -> None:
    assert split(*text) == (answer, reasoning)
    for first, second in itertools.combinations(range(len(text) + 1), 2):
        assert split(text[:first], text[first:second], text[second:]) == (answer, reasoning)


@given(st.lists(st.sampled_from(["<", "</", "think", ">", "<think>", "</think>", "x", "thi", "nk>"]), max_size=30))
def test_no_tag_is_ever_emitted_and_no_text_lost(deltas: list[str]) -> None:
    answer, reasoning = split(*deltas)
    text = re.sub("</?think>", "", "".join(deltas))
    assert len(answer) + len(reasoning) == len(text)


def test_held_back_text_comes_before_the_end() -> None:
    translator = VllmTranslator()
    assert translator.feed("response.output_text.delta", b'{"delta":"a <th"}') == (TextDelta("a "),)
    assert translator.feed("response.completed", b"{}") == (TextDelta("<th"), Completed(None, None, None, ()))

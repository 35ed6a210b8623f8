"""The Chat Completions dialect: exact bodies, and what chunks add up to."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.turns.context import PlannedMessage
from shared.turns.lifecycle import TokenUsage
from tests.unit.providers.factories import EARLIER, TENANT, USER, a_model, a_request
from worker.providers.base import Completed, Counted, ProviderError, ProviderEvent, TextDelta
from worker.providers.openai_chat_completions import ChatCompletionsTranslator, build_body


def test_body_with_everything() -> None:
    request = a_request(
        model=a_model(temperature=0.5, stop=("END",), reasoning_effort="low", extra_body={"seed": 1, "stream": False}),
        instructions="You are kind.",
        history=(*EARLIER, PlannedMessage("user", "What is shown?")),
        image_file_ids=("file-abc",),
        tools=({"type": "web_search"},),
    )
    assert build_body(request) == {
        "model": "gpt-x",
        "stream": True,
        "stream_options": {"include_usage": True},
        "messages": [
            {"role": "system", "content": "You are kind."},
            {"role": "user", "content": "earlier question"},
            {"role": "assistant", "content": "earlier answer"},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is shown?"},
                    {"type": "image_url", "image_url": {"url": "file-abc"}},
                ],
            },
        ],
        "max_completion_tokens": 8_192,
        "user": f"{TENANT}:{USER}",
        "temperature": 0.5,
        "stop": ["END"],
        "reasoning_effort": "low",
        "seed": 1,
    }


def test_body_with_nothing_optional() -> None:
    assert build_body(a_request()) == {
        "model": "gpt-x",
        "stream": True,
        "stream_options": {"include_usage": True},
        "messages": [{"role": "user", "content": "What is shown?"}],
        "max_completion_tokens": 8_192,
        "user": f"{TENANT}:{USER}",
    }


def chunk(content: str | None = None, finish_reason: str | None = None, **members: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": {"content": content}, "finish_reason": finish_reason}
    return {"id": "chatcmpl-1", "choices": [choice], **members}


def translate(*chunks: dict[str, Any], done: bool = True) -> list[ProviderEvent]:
    translator = ChatCompletionsTranslator()
    events = [event for each in chunks for event in translator.feed("", json.dumps(each).encode())]
    return [*events, *(translator.feed("", b"[DONE]") if done else translator.finish())]


USAGE = {
    "prompt_tokens": 10,
    "completion_tokens": 20,
    "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": {"reasoning_tokens": 7},
}


@pytest.mark.parametrize("done", [True, False])
def test_an_answer_with_usage_after_the_finish_reason(done: bool) -> None:
    """Closing without `[DONE]` is as good once the finish reason is known."""
    events = translate(
        chunk(""), chunk("Hel"), chunk("lo\x00"), chunk(finish_reason="stop"), chunk(choices=[], usage=USAGE), done=done
    )
    usage = TokenUsage(10, 20, cache_read_input_tokens=4, reasoning_tokens=7)
    assert events == [TextDelta("Hel"), TextDelta("lo"), Counted(usage), Completed("chatcmpl-1", usage, None, ())]


@pytest.mark.parametrize(
    ("finish_reason", "reason"),
    [("stop", None), ("tool_calls", None), ("length", "max_tokens"), ("content_filter", "content_filter")],
)
def test_finish_reasons(finish_reason: str, reason: str | None) -> None:
    (completed,) = translate(chunk(finish_reason=finish_reason))
    assert isinstance(completed, Completed)
    assert completed.incomplete_reason == reason
    assert completed.usage is None


def test_the_last_usage_counts() -> None:
    first = {"prompt_tokens": 1, "completion_tokens": 1}
    events = translate(chunk("a", usage=first), chunk(usage=None), chunk(finish_reason="stop", usage=USAGE))
    completed = events[-1]
    assert isinstance(completed, Completed)
    assert completed.usage is not None
    assert completed.usage.output_tokens == 20
    assert [event.usage.output_tokens for event in events if isinstance(event, Counted)] == [1, 20]


@pytest.mark.parametrize(
    ("data", "code", "message"),
    [
        (b'{"error":{"message":"Boom in chatcmpl-1a"}}', "provider_error", "Boom in [provider_id]"),
        (b'{"error":"Boom"}', "provider_error", "Boom"),
        (b'{"error":{"code":"rate_limit_exceeded","message":"m"}}', "rate_limited", "Rate limited by provider"),
        (b"{", "provider_error", "Provider sent an unreadable answer"),
        (b"7", "provider_error", "Provider sent an unreadable answer"),
    ],
)
def test_failures(data: bytes, code: str, message: str) -> None:
    with pytest.raises(ProviderError) as caught:
        ChatCompletionsTranslator().feed("", data)
    assert (caught.value.code, caught.value.message) == (code, message)


def test_the_end_without_a_finish_reason_is_a_failure() -> None:
    with pytest.raises(ProviderError, match="ended the answer early"):
        translate(chunk("Hel"), done=False)


@given(
    st.recursive(
        st.none() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["choices", "delta", "content", "finish_reason", "usage", "error"]), inner
            )
        ),
        max_leaves=10,
    )
)
def test_nothing_a_provider_sends_can_raise_anything_else(value: object) -> None:
    translator = ChatCompletionsTranslator()
    with contextlib.suppress(ProviderError):
        assert isinstance(translator.feed("", json.dumps(value).encode()), tuple)

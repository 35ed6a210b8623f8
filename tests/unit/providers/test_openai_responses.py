"""The Responses dialect: exact bodies, and every stream event's meaning."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.turns.context import PlannedMessage
from shared.turns.lifecycle import TokenUsage
from tests.unit.providers.factories import CHAT, EARLIER, TENANT, USER, a_model, a_request
from worker.providers.base import (
    Completed,
    ProviderError,
    ProviderEvent,
    TextDelta,
    ToolDone,
    ToolStarted,
)
from worker.providers.openai_responses import ResponsesTranslator, build_body

FAILED = "response.failed"
RATE_LIMITED = "Rate limited by provider"
UNAVAILABLE = "Provider is currently unavailable"
UNREADABLE = "Provider sent an unreadable answer"
TOOLS = (
    {"type": "file_search", "vector_store_ids": ["vs_1"], "max_num_results": 10},
    {"type": "web_search", "search_context_size": "low"},
    {"type": "code_interpreter", "container": {"type": "auto", "file_ids": ["file-x"]}},
)


def test_body_with_everything() -> None:
    model = a_model(
        temperature=0.7, top_p=1.0, frequency_penalty=0.0, presence_penalty=0.0, stop=("END",), reasoning_effort="low"
    )
    request = a_request(
        model=model,
        instructions="You are kind.",
        history=(*EARLIER, PlannedMessage("user", "What is shown?")),
        image_file_ids=("file-abc",),
        tools=TOOLS,
    )
    assert build_body(request) == {
        "model": "gpt-x",
        "stream": True,
        "store": False,
        "previous_response_id": None,
        "instructions": "You are kind.",
        "input": [
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "earlier question"}]},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "earlier answer"}]},
            {
                "type": "message",
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "What is shown?"},
                    {"type": "input_image", "file_id": "file-abc"},
                ],
            },
        ],
        "tools": list(TOOLS),
        "max_output_tokens": 8_192,
        "max_tool_calls": 2,
        "user": f"{TENANT}:{USER}",
        "metadata": {
            "tenant_id": str(TENANT),
            "user_id": str(USER),
            "chat_id": str(CHAT),
            "request_type": "chat",
            "feature": "file_search+web_search+code_interpreter",
        },
        "temperature": 0.7,
        "top_p": 1.0,
        "frequency_penalty": 0.0,
        "presence_penalty": 0.0,
        "stop": ["END"],
        "reasoning": {"effort": "low"},
    }


def test_body_with_nothing_optional() -> None:
    assert build_body(a_request(instructions="")) == {
        "model": "gpt-x",
        "stream": True,
        "store": False,
        "previous_response_id": None,
        "input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "What is shown?"}]}],
        "max_output_tokens": 8_192,
        "max_tool_calls": 2,
        "user": f"{TENANT}:{USER}",
        "metadata": {
            "tenant_id": str(TENANT),
            "user_id": str(USER),
            "chat_id": str(CHAT),
            "request_type": "chat",
            "feature": "none",
        },
    }


def test_a_summary_belongs_to_the_system_user() -> None:
    body = build_body(a_request(request_kind="summary"))
    assert body["user"] == f"{TENANT}:system"
    assert body["metadata"]["request_type"] == "summary"


def test_extra_body_adds_members_but_lifts_no_limit() -> None:
    model = a_model(extra_body={"service_tier": "flex", "max_output_tokens": 1_000_000, "store": True})
    body = build_body(a_request(model=model))
    assert body["service_tier"] == "flex"
    assert body["max_output_tokens"] == 8_192
    assert body["store"] is False


def feed(name: str, **data: Any) -> tuple[ProviderEvent, ...]:
    return ResponsesTranslator().feed(name, json.dumps(data).encode())


def failure(name: str, data: bytes) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        ResponsesTranslator().feed(name, data)
    return caught.value


@pytest.mark.parametrize(
    ("name", "data", "events"),
    [
        ("response.output_text.delta", {"delta": "Hel"}, (TextDelta("Hel"),)),
        ("response.output_text.delta", {"delta": "a\x00b\ud800"}, (TextDelta("ab\ufffd"),)),
        ("response.output_text.delta", {"delta": ""}, ()),
        ("response.output_text.delta", {"delta": "\x00"}, ()),
        ("response.output_text.delta", {}, ()),
        ("response.output_text.done", {"text": "Hello"}, ()),
        ("response.code_interpreter_call.interpreting", {}, ()),
        ("response.created", {}, ()),
        ("response.file_search_call.searching", {}, (ToolStarted("file_search"),)),
        ("response.file_search_call.completed", {}, (ToolDone("file_search", {"files_searched": 0}),)),
        ("response.file_search_call.completed", {"results": None}, (ToolDone("file_search", {"files_searched": 0}),)),
        (
            "response.file_search_call.completed",
            {"results": [{}, {}]},
            (ToolDone("file_search", {"files_searched": 2}),),
        ),
        ("response.web_search_call.searching", {}, (ToolStarted("web_search"),)),
        ("response.web_search_call.completed", {}, (ToolDone("web_search", {}),)),
        ("response.code_interpreter_call.in_progress", {}, (ToolStarted("code_interpreter"),)),
        ("response.code_interpreter_call.completed", {}, (ToolDone("code_interpreter", {"output": ""}),)),
        (
            "response.code_interpreter_call.completed",
            {"outputs": [{"type": "logs", "logs": "1\x00"}, {"type": "image"}, {"type": "logs", "logs": "2"}]},
            (ToolDone("code_interpreter", {"output": "1\n2"}),),
        ),
        ("response.completed", {}, (Completed(None, None, None, ()),)),
        ("response.completed", {"response": {"id": "resp_1"}}, (Completed("resp_1", None, None, ()),)),
        ("response.completed", {"id": "resp_1"}, (Completed("resp_1", None, None, ()),)),
        (
            "response.completed",
            {"response": {"id": "resp_1"}, "usage": {"input_tokens": 3}},
            (Completed("resp_1", TokenUsage(3, 0), None, ()),),
        ),
        (
            "response.completed",
            {"response": {"incomplete_details": {"reason": "max_output_tokens"}}},
            (Completed(None, None, "max_tokens", ()),),
        ),
        (
            "response.incomplete",
            {"incomplete_details": {"reason": "length"}},
            (Completed(None, None, "max_tokens", ()),),
        ),
        (
            "response.incomplete",
            {"response": {"incomplete_details": {"reason": "max_tokens"}}},
            (Completed(None, None, "max_tokens", ()),),
        ),
        (
            "response.incomplete",
            {"response": {"incomplete_details": {"reason": "content_filter"}}},
            (Completed(None, None, "content_filter", ()),),
        ),
        ("response.incomplete", {"response": {"incomplete_details": None}}, (Completed(None, None, "other", ()),)),
        ("response.incomplete", {"response": {"incomplete_details": "?"}}, (Completed(None, None, "other", ()),)),
    ],
)
def test_meanings(name: str, data: dict[str, Any], events: tuple[ProviderEvent, ...]) -> None:
    """The name comes from the event line; without one, `type` in the data says the same."""
    assert feed(name, **data) == events
    assert feed("", type=name, **data) == events
    assert feed("message", type=name, **data) == events
    assert feed(name, type="response.created", **data) == events


def test_usage_and_its_details() -> None:
    usage = {
        "input_tokens": 10,
        "output_tokens": 20,
        "input_tokens_details": {"cached_tokens": 4},
        "output_tokens_details": {"reasoning_tokens": 7},
    }
    (event,) = feed("response.completed", response={"id": "r", "usage": usage})
    assert event == Completed("r", TokenUsage(10, 20, cache_read_input_tokens=4, reasoning_tokens=7), None, ())


@pytest.mark.parametrize(
    ("usage", "known"),
    [
        (TokenUsage(0, 0), False),
        (TokenUsage(1, 0), True),
        (TokenUsage(0, 1), True),
        (TokenUsage(0, 0, reasoning_tokens=5), False),
    ],
)
def test_usage_of_zeros_is_unknown(usage: TokenUsage, known: bool) -> None:
    assert usage.is_known is known


@pytest.mark.parametrize("odd", [None, "7", 1.5, [], {}, -3])
def test_odd_counts_are_zero(odd: object) -> None:
    (event,) = feed("response.completed", usage={"input_tokens": odd, "output_tokens": 2, "input_tokens_details": odd})
    assert isinstance(event, Completed)
    assert event.usage == TokenUsage(0, 2)


@pytest.mark.parametrize(
    ("told", "counted"), [("7.0", 7), ("1e3", 1_000), (str(10**18), 10**15), (str(10**25), 10**15)]
)
def test_counts_that_were_rewritten_on_the_way_are_counts(told: str, counted: int) -> None:
    """As floats, or far out of what the database holds: a number too large must not pass for a small one."""
    data = f'{{"usage":{{"input_tokens":{told},"output_tokens":2}}}}'.encode()
    (event,) = ResponsesTranslator().feed("response.completed", data)
    assert isinstance(event, Completed)
    assert event.usage == TokenUsage(counted, 2)


def test_annotations_count_from_the_start_of_the_answer() -> None:
    web = {"type": "url_citation", "url": "https://a.example/1", "title": "A\x00", "start_index": 1, "end_index": 2}
    file = {"type": "file_citation", "file_id": "file-1", "filename": "a.pdf", "index": 3}
    output = [
        {"type": "reasoning", "summary": []},
        {"type": "message", "content": [{"type": "output_text", "text": "abc", "annotations": [web]}]},
        {"type": "message", "content": [{"type": "output_text", "text": "de", "annotations": [file, web, "odd"]}]},
    ]
    (event,) = feed("response.completed", response={"output": output})
    assert isinstance(event, Completed)
    assert event.annotations == (
        {**web, "title": "A"},
        file,
        {**web, "title": "A", "start_index": 4, "end_index": 5},
    )


def test_long_tool_output_is_cut() -> None:
    (event,) = feed("response.code_interpreter_call.completed", outputs=[{"type": "logs", "logs": "x" * 8_193}])
    assert event == ToolDone("code_interpreter", {"output": "x" * 8_192 + "...[truncated]"})
    (event,) = feed("response.code_interpreter_call.completed", outputs=[{"type": "logs", "logs": "x" * 8_192}])
    assert event == ToolDone("code_interpreter", {"output": "x" * 8_192})


@pytest.mark.parametrize(
    ("name", "data", "code", "message"),
    [
        ("error", b'{"error":{"message":"Boom in resp_1a","code":"x"}}', "provider_error", "Boom in [provider_id]"),
        ("error", b'{"type":"error","code":null,"message":"Flat"}', "provider_error", "Flat"),
        ("error", b'{"error":"Just text"}', "provider_error", "Just text"),
        ("error", b"plain text about https://x.example/", "provider_error", "plain text about [url]"),
        ("error", b'{"error":{"code":"rate_limit_exceeded"}}', "rate_limited", RATE_LIMITED),
        ("error", b'{"code":"rate_limited","message":"m"}', "rate_limited", RATE_LIMITED),
        ("error", b"{}", "provider_error", "{}"),
        ("error", b"", "provider_error", UNAVAILABLE),
        ("", b'{"error":{"message":"Nameless"}}', "provider_error", "Nameless"),
        ("", b'{"type":"error","message":"Nameless"}', "provider_error", "Nameless"),
        (FAILED, b'{"response":{"error":{"message":"In"}},"error":{"message":"Out"}}', "provider_error", "In"),
        (FAILED, b'{"response":{"error":null},"error":{"message":"Out"}}', "provider_error", "Out"),
        (FAILED, b'{"error":{"code":"rate_limit_exceeded","message":"m"}}', "rate_limited", RATE_LIMITED),
        (FAILED, b'{"response":{"instructions":"Secret"}}', "provider_error", UNAVAILABLE),
        ("response.output_text.delta", b'{"delta":', "provider_error", UNREADABLE),
        ("response.output_text.delta", b'["x"]', "provider_error", UNREADABLE),
        ("response.completed", b"", "provider_error", UNREADABLE),
        ("", b"<html>", "provider_error", UNREADABLE),
    ],
)
def test_failures(name: str, data: bytes, code: str, message: str) -> None:
    error = failure(name, data)
    assert (error.code, error.message) == (code, message)


def test_a_failure_keeps_what_was_billed() -> None:
    error = failure(FAILED, b'{"response":{"id":"resp_1","usage":{"input_tokens":9}}}')
    assert (error.usage, error.response_id) == (TokenUsage(9, 0), "resp_1")
    assert failure("error", b'{"usage":{"output_tokens":9}}').usage == TokenUsage(0, 9)


def test_the_detail_is_raw_but_for_credentials() -> None:
    error = failure("error", b'{"message":"file-a1 refused sk-123 at https://x.example/"}')
    assert error.detail == '{"message":"file-a1 refused [credential] at https://x.example/"}'
    assert error.message == "[provider_id] refused [credential] at [url]"


def test_unlisted_events_are_not_even_decoded() -> None:
    assert ResponsesTranslator().feed("response.future_event", b"not json") == ()


@pytest.mark.parametrize("data", [b"[DONE]", b"", b"{}", b'{"type":"response.created"}', b'{"type":7}', b'{"type":""}'])
def test_nameless_noise_is_passed_over(data: bytes) -> None:
    assert ResponsesTranslator().feed("", data) == ()


def test_the_end_without_a_terminal_event_is_a_failure() -> None:
    with pytest.raises(ProviderError, match="ended the answer early"):
        ResponsesTranslator().finish()


NAMES = st.sampled_from(
    [
        "",
        "error",
        "response.output_text.delta",
        "response.completed",
        "response.incomplete",
        "response.failed",
        "response.file_search_call.completed",
        "response.code_interpreter_call.completed",
    ]
)
MEMBERS = st.sampled_from(
    [
        *("type", "response", "id", "delta", "output", "outputs", "results", "content", "annotations", "text", "logs"),
        *("error", "message", "code", "usage", "input_tokens", "incomplete_details", "reason", "start_index"),
    ]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(MEMBERS, inner),
    max_leaves=12,
)


@given(name=NAMES, data=JSON.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=30))
def test_nothing_a_provider_sends_can_raise_anything_else(name: str, data: bytes) -> None:
    with contextlib.suppress(ProviderError):
        assert isinstance(ResponsesTranslator().feed(name, data), tuple)

"""Answers that are not streamed: what is sent, what is read of all three dialects, how failures are told."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from shared.model_catalog.catalog import ProviderKind
from shared.turns.lifecycle import TokenUsage
from tests.unit.providers.factories import a_config, a_request
from tests.unit.providers.servers import Exchange, Script, Server, serving
from tests.unit.providers.test_http_stream import DROP_SECS, a_provider
from worker.providers.base import Completion, ProviderError

RESPONSE = {
    "id": "resp_1",
    "status": "completed",
    "output": [
        {"type": "reasoning", "summary": []},
        {"type": "message", "content": [{"type": "output_text", "text": "Hel"}, {"type": "refusal", "refusal": "no"}]},
        {"type": "message", "content": [{"type": "output_text", "text": "lo\x00"}]},
    ],
    "usage": {"input_tokens": 5, "output_tokens": 2, "output_tokens_details": {"reasoning_tokens": 1}},
}
COMPLETION = {
    "id": "chatcmpl-1",
    "choices": [{"message": {"role": "assistant", "content": "Hello"}, "finish_reason": "length"}],
    "usage": {"prompt_tokens": 5, "completion_tokens": 2},
}


def responding(status: int, value: Any, **headers: str) -> Script:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()

    async def script(exchange: Exchange) -> None:
        await exchange.respond(status, body, Content_Type="application/json", **headers)

    return script


async def complete(script: Script, kind: ProviderKind = "openai_responses", **config: Any) -> tuple[Completion, Server]:
    requested: list[None] = []
    async with serving(script) as server, a_provider(a_config(server.port, kind=kind, **config)) as provider:
        request = a_request(request_kind="summary")
        answer = await provider.complete(request, on_requested=lambda: requested.append(None))
    assert len(requested) == 1
    return answer, server


async def failure_of(script: Script, kind: ProviderKind = "openai_responses", **config: Any) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        await complete(script, kind, **config)
    return caught.value


async def test_the_text_is_that_of_all_output_parts() -> None:
    answer, _ = await complete(responding(200, RESPONSE))
    assert answer == Completion("Hello", "resp_1", TokenUsage(5, 2, reasoning_tokens=1), None)


async def test_nothing_is_streamed_and_nobody_is_named() -> None:
    _, server = await complete(responding(200, RESPONSE))
    body = server.exchanges[0].json
    assert server.exchanges[0].headers["accept"] == "application/json"
    assert (body["stream"], body["metadata"]["request_type"], body["metadata"]["feature"]) == (False, "summary", "none")
    assert body["user"].endswith(":system")
    assert "tools" not in body


async def test_an_incomplete_answer_says_why() -> None:
    incomplete = RESPONSE | {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
    answer, _ = await complete(responding(200, incomplete))
    assert (answer.text, answer.incomplete_reason) == ("Hello", "max_tokens")


async def test_chat_completions() -> None:
    answer, server = await complete(responding(200, COMPLETION), "openai_chat_completions")
    assert answer == Completion("Hello", "chatcmpl-1", TokenUsage(5, 2), "max_tokens")
    assert server.exchanges[0].json["stream"] is False
    assert "stream_options" not in server.exchanges[0].json


async def test_thinking_is_no_part_of_the_text() -> None:
    content = [{"type": "output_text", "text": "<think>hm</think>Hello<"}]
    answer, _ = await complete(responding(200, {"output": [{"content": content}]}), "vllm_responses")
    assert answer == Completion("Hello<", None, None, None)


@pytest.mark.parametrize("kind", ["openai_responses", "openai_chat_completions", "vllm_responses"])
@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"id": "resp_1", "output": [', b""])
async def test_what_is_no_answer_is_a_failure(kind: ProviderKind, body: bytes) -> None:
    assert (await failure_of(responding(200, body), kind)).code == "provider_error"


@pytest.mark.parametrize("kind", ["openai_responses", "openai_chat_completions", "vllm_responses"])
async def test_an_error_in_a_good_status_is_a_failure(kind: ProviderKind) -> None:
    failure = await failure_of(responding(200, {"error": {"message": "no such model"}}), kind)
    assert (failure.code, failure.message) == ("provider_error", "no such model")


async def test_a_failed_response_keeps_its_usage() -> None:
    failure = await failure_of(responding(200, RESPONSE | {"status": "failed", "error": None}))
    assert (failure.code, failure.usage) == ("provider_error", TokenUsage(5, 2, reasoning_tokens=1))


@pytest.mark.parametrize(
    ("status", "code"), [(429, "rate_limited"), (504, "provider_timeout"), (500, "provider_error")]
)
async def test_refusals_are_told_like_those_of_a_stream(status: int, code: str) -> None:
    failure = await failure_of(responding(status, {"error": {"message": "maximum context length"}}))
    assert (failure.code, failure.http_status) == (code, status)
    assert "maximum context length" in failure.detail


async def test_an_answer_may_take_longer_than_a_first_event_but_not_for_ever() -> None:
    async def slow(exchange: Exchange) -> None:
        await asyncio.sleep(0.15)
        await exchange.respond(200, json.dumps(RESPONSE).encode())

    answer, _ = await complete(slow, timeouts={"first_event": 0.05, "idle": 0.05})
    assert answer.text == "Hello"
    assert (await failure_of(slow, timeouts={"total": 0.05})).code == "provider_timeout"


async def test_a_caller_that_gives_up_drops_the_connection() -> None:
    asked = asyncio.Event()
    closed = asyncio.get_running_loop().create_future()

    async def silent(exchange: Exchange) -> None:
        asked.set()
        closed.set_result(await exchange.closed_by_caller())

    async with serving(silent) as server, a_provider(a_config(server.port)) as provider, asyncio.TaskGroup() as tasks:
        call = tasks.create_task(provider.complete(a_request(), on_requested=lambda: None))
        await asked.wait()
        call.cancel()
        await asyncio.wait_for(closed, DROP_SECS)


async def test_a_provider_that_asks_to_come_back_is_asked_once_more() -> None:
    answers = iter([(429, {}), (200, RESPONSE)])

    async def script(exchange: Exchange) -> None:
        status, value = next(answers)
        await exchange.respond(status, json.dumps(value).encode(), Retry_After="0")

    answer, server = await complete(script)
    assert (answer.text, len(server.exchanges)) == ("Hello", 2)

"""Every way in which a provider can fail: one sanitized terminal event, nothing stored, the chat usable at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import asyncpg
import httpx
import pytest

from tests.support.deployment import Deployment
from tests.support.sse import open_stream
from tests.support.stored import find_turn
from tests.support.stream_rules import assert_well_formed
from tests.support.turns import (
    ToldTurn,
    ask,
    create_chat,
    list_messages,
    message,
    new_marker,
    scripted,
    send_path,
)

SECRETS = ["resp_abc123xyz", "batch_456", "file-Qq7zz9", "https://internal.example/v1?key=1", "sk-live-0a1b2c3d"]
LEAKY = f"It broke: {', '.join(SECRETS)}, Bearer eyJ0b2tlbg.x.y; ask file_search."
CLEAN = "It broke: [provider_id], [provider_id], [provider_id], [url] [credential], [credential]; ask file_search."
UNAVAILABLE = "Provider is currently unavailable"
TIMED_OUT = "Provider request timed out"
RATE_LIMITED = "Rate limited by provider"


@dataclass(frozen=True)
class Failure:
    """A script, and what becomes of it. Without a message any will do."""

    script: dict[str, Any]
    code: str
    message: str | None = None
    requests: int = 1


def http(status: int, *, body: Any = None, **headers: str | int) -> dict[str, Any]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return {"http_status": status, "body": body, "headers": named}


FAILURES = {
    "401": Failure(http(401, body={"error": {"message": LEAKY, "code": "invalid_api_key"}}), "provider_error"),
    "403 flat": Failure(http(403, body={"message": "No.", "code": "denied"}), "provider_error", "No."),
    "408": Failure(http(408), "provider_timeout", TIMED_OUT),
    "429": Failure(http(429), "rate_limited", RATE_LIMITED),
    "429 soon": Failure(http(429, retry_after=1), "rate_limited", RATE_LIMITED, requests=2),
    "429 at once": Failure(http(429, Retry_After=0), "rate_limited", RATE_LIMITED, requests=2),
    "429 later": Failure(http(429, retry_after=11), "rate_limited", RATE_LIMITED),
    "500": Failure(http(500, body={"error": {"message": "Boom", "code": "x"}}), "provider_error", "Boom"),
    "500 page": Failure(http(500, body="<h1>Oops</h1>"), "provider_error", "<h1>Oops</h1>"),
    "500 soon": Failure(http(500, retry_after=0), "provider_error"),
    "502": Failure(http(502), "provider_error"),
    "503": Failure(http(503, retry_after=0), "provider_error"),
    "504": Failure(http(504), "provider_timeout", TIMED_OUT),
    "json instead of a stream": Failure(http(200, body={"error": {"message": "Not now"}}), "provider_error", "Not now"),
    "reset": Failure({"tokens": 5, "rate": 100, "terminal": "reset"}, "provider_error", UNAVAILABLE),
    "reset at once": Failure({"tokens": 0, "terminal": "reset"}, "provider_error", UNAVAILABLE),
    "eof": Failure({"tokens": 5, "rate": 0, "terminal": "eof"}, "provider_error"),
    "eof at once": Failure({"events": [], "terminal": "eof"}, "provider_error"),
    "garbage": Failure({"tokens": 5, "rate": 0, "terminal": "garbage"}, "provider_error"),
    "garbage event": Failure({"events": [{"event": "response.output_text.delta", "data": "{"}]}, "provider_error"),
    "failed": Failure(
        {"tokens": 5, "rate": 0, "terminal": "failed", "error": {"code": "x", "message": LEAKY}},
        "provider_error",
        CLEAN,
    ),
    "failed as rate limit": Failure(
        {"tokens": 5, "terminal": "failed", "error": {"code": "rate_limit_exceeded", "message": LEAKY}},
        "rate_limited",
        RATE_LIMITED,
    ),
    "error event": Failure(
        {"events": [{"event": "error", "data": {"code": "x", "message": LEAKY}}]}, "provider_error", CLEAN
    ),
    "no text at all": Failure({"tokens": 0}, "provider_error", "The model returned no content"),
}


@pytest.mark.parametrize("name", FAILURES)
async def test_23_a_failing_provider_ends_the_turn_as_an_error(
    product: Deployment, client: httpx.AsyncClient, name: str
) -> None:
    failure = FAILURES[name]
    marker = new_marker()

    turn = await ask(client, scripted(marker, **failure.script))

    # Counted first: the next turn of the chat has the question in its history.
    assert len(product.provider_requests(marker)) == failure.requests
    assert_well_formed(turn.events)
    await assert_failed(client, turn, failure.code, failure.message)


async def test_23_a_retry_that_succeeds_is_not_noticed(product: Deployment, client: httpx.AsyncClient) -> None:
    marker = new_marker()
    product.queue_scripts({"match": marker, **http(429, retry_after=0)})

    turn = await ask(client, scripted(marker, text="At last.", rate=0))

    assert turn.terminal.name == "done"
    assert turn.text == "At last."
    assert len(product.provider_requests(marker)) == 2


@pytest.mark.parametrize("form", ["nested", "flat"])
async def test_24_a_failed_response_after_text_is_told_without_secrets(
    client: httpx.AsyncClient, database: asyncpg.Connection, form: str
) -> None:
    error = {"error": {"code": "server_error", "message": LEAKY}}
    events = [
        {"event": "response.output_text.delta", "data": {"type": "response.output_text.delta", "delta": "Well, "}},
        {"event": "response.failed", "data": {"response": {"id": "resp_9zz9", **error}} if form == "nested" else error},
    ]
    chat_id = await create_chat(client)
    body = message(scripted(events=events))

    # The question holds the secrets too, so only what answers it is searched.
    async with open_stream(client, "POST", send_path(chat_id), json=body) as stream:
        turn = ToldTurn(chat_id, body, await stream.rest())

    assert [event.name for event in turn.events] == ["stream_started", "delta", "error"]
    await assert_failed(client, turn, "provider_error", CLEAN)
    seen = str(turn.events) + (await client.get(turn.turn_path)).text
    assert not [secret for secret in SECRETS if secret in seen]
    detail = (await find_turn(database, turn))["error_detail"]
    assert "batch_456" in detail, "operators read what the provider wrote"
    assert "sk-live" not in detail
    assert "eyJ0b2tlbg" not in detail


@pytest.mark.parametrize("form", ["nested", "flat"])
async def test_25_an_incomplete_response_completes_the_turn(client: httpx.AsyncClient, form: str) -> None:
    """Also: events are known by the `event:` line, whether or not their data repeats the type."""
    ending = {"usage": {"input_tokens": 7, "output_tokens": 3}, "incomplete_details": {"reason": "max_output_tokens"}}
    events = [
        {"event": "response.created", "data": {"response": {"id": "resp_1abc"}}},
        {"event": "response.output_text.delta", "data": {"delta": "Half "}},
        {"event": "response.output_text.delta", "data": {"delta": "an answer"}},
        {"event": "response.incomplete", "data": {"response": ending} if form == "nested" else ending},
    ]

    turn = await ask(client, scripted(events=events))

    assert turn.text == "Half an answer"
    assert turn.terminal.name == "done"
    assert turn.terminal.data["usage"] == {"input_tokens": 7, "output_tokens": 3, "model": "azure-gpt-4.1"}
    assert (await client.get(turn.turn_path)).json()["state"] == "done"


async def assert_failed(client: httpx.AsyncClient, turn: ToldTurn, code: str, told: str | None) -> None:
    """Check the end of the stream, the turn's status, that no answer is stored, and that the chat is free at once."""
    assert turn.terminal.name == "error"
    assert turn.terminal.data["code"] == code
    assert turn.terminal.data.keys() == {"code", "message"}
    assert turn.terminal.data["message"]
    if told is not None:
        assert turn.terminal.data["message"] == told
    status = (await client.get(turn.turn_path)).json()
    assert (status["state"], status["error_code"]) == ("error", code)
    assert "assistant_message_id" not in status
    assert [item["role"] for item in await list_messages(client, turn.chat_id)] == ["user"]
    again = await ask(client, scripted(text="Better.", rate=0), chat_id=turn.chat_id)
    assert again.terminal.name == "done"

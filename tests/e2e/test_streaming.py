"""One turn's stream, from the request to its last byte."""

from __future__ import annotations

import json
import re
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest

from shared.ids import new_uuid4
from tests.support.deployment import Deployment
from tests.support.problems import assert_problem
from tests.support.sse import open_stream
from tests.support.stored import count_rows
from tests.support.stream_rules import assert_increasing, assert_well_formed
from tests.support.turns import (
    ask,
    create_chat,
    list_messages,
    message,
    new_marker,
    scripted,
    send_path,
    wait_for_state,
)

FRAME = re.compile(rb"id: [^\n]+\nevent: [a-z_]+\ndata: [^\n]+\n\n")
ODD_TEXT = (
    'Zeile 1\nline 2\r\nid: 9-9\ndata: {}\n\n\u2028\u2029\x85 lone \r CR, 你好, 👩‍👩‍👧‍👦 \ufeff \\u0041 "quoted" <&>\t.'
)


async def test_16_a_send_is_one_stream_from_started_to_done(client: httpx.AsyncClient) -> None:
    chat_id = await create_chat(client)
    body = message(scripted(tokens=20, rate=0))
    headers = {"Accept": "application/json", "Accept-Encoding": "gzip, br"}

    async with open_stream(client, "POST", send_path(chat_id), json=body, headers=headers) as stream:
        events = await stream.rest()
        answer = stream.response

    assert answer.headers["cache-control"] == "no-cache, no-transform"
    assert answer.headers["x-accel-buffering"] == "no"
    assert "content-encoding" not in answer.headers
    assert_well_formed(events)
    assert events[0].data == {
        "request_id": body["request_id"],
        "message_id": str(UUID(events[0].data["message_id"])),
        "is_new_turn": True,
    }
    assert events[-1].name == "done"


async def test_16_the_wire_is_frames_of_three_lines_and_nothing_else(client: httpx.AsyncClient) -> None:
    chat_id = await create_chat(client)

    answer = await client.post(send_path(chat_id), json=message(scripted(text=ODD_TEXT, rate=0)))

    frames = FRAME.findall(answer.content)
    assert b"".join(frames) == answer.content
    assert frames[0].startswith(b"id: 0-1\nevent: stream_started\n")
    assert len(frames[0]) < 200
    for frame in frames:
        data = frame.split(b"data: ", 1)[1].strip()
        assert data == json.dumps(json.loads(data), separators=(",", ":"), ensure_ascii=False).encode()


async def test_17_the_request_id_of_the_client_is_echoed(client: httpx.AsyncClient) -> None:
    request_id = str(new_uuid4())

    turn = await ask(client, scripted(text="Yes.", rate=0), request_id=request_id.upper())

    assert turn.request_id == request_id
    assert (await client.get(turn.turn_path)).json()["request_id"] == request_id


async def test_17_without_a_request_id_one_is_made(client: httpx.AsyncClient) -> None:
    chat_id = await create_chat(client)
    body = {"content": scripted(text="Yes.", rate=0)}

    async with open_stream(client, "POST", send_path(chat_id), json=body) as stream:
        request_id = (await stream.take(1))[0].data["request_id"]
        assert UUID(request_id).version == 4
        await stream.rest()

    assert (await wait_for_state(client, chat_id, request_id, "done"))["request_id"] == request_id


async def test_18_every_frame_has_an_id_and_logged_ids_increase(client: httpx.AsyncClient) -> None:
    tools = [{"name": "web_search"}, {"name": "code_interpreter", "details": {"output": "4"}}]
    turn = await ask(client, scripted(tokens=200, rate=0, tools=tools))

    assert_increasing(turn.events)
    assert {"tool", "delta"} <= {event.name for event in turn.events}


async def test_19_the_deltas_are_the_stored_answer(client: httpx.AsyncClient) -> None:
    turn = await ask(client, scripted(text=ODD_TEXT, rate=500))

    deltas = [event.data for event in turn.events if event.name == "delta"]
    assert all(delta.keys() == {"type", "content"} and delta["type"] == "text" for delta in deltas)
    assert "".join(delta["content"] for delta in deltas) == ODD_TEXT
    assert (await list_messages(client, turn.chat_id))[1]["content"] == ODD_TEXT


@pytest.mark.parametrize("model", [None, "gpt-5-mini"])
async def test_20_done_tells_usage_and_models(client: httpx.AsyncClient, model: str | None) -> None:
    chat_id = await create_chat(client, **({} if model is None else {"model": model}))
    chosen = (await client.get(f"/chats/{chat_id}")).json()["model"]

    turn = await ask(client, scripted(text="Yes.", rate=0), chat_id=chat_id)

    done = turn.terminal.data
    assert done.keys() - {"quota_warnings"} == {"usage", "effective_model", "selected_model", "quota_decision"}
    assert done["usage"].keys() == {"input_tokens", "output_tokens", "model"}
    assert done["usage"]["input_tokens"] > 0
    assert done["usage"]["output_tokens"] > 0
    assert done["effective_model"] == done["selected_model"] == done["usage"]["model"] == chosen
    assert done["quota_decision"] == "allow"


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ({"content": None}, "invalid_request"),
        ({"content": ""}, "invalid_request"),
        ({"content": " \n\t "}, "invalid_request"),
        ({"content": 7}, "invalid_request"),
        ({"content": "a\x00b"}, "invalid_request"),
        ({"attachment_ids": "all"}, "invalid_request"),
        ({"attachment_ids": ["not-a-uuid"]}, "invalid_request"),
        ({"attachment_ids": [str(UUID(int=1))] * 2}, "invalid_request"),
        ({"attachment_ids": [str(UUID(int=1))]}, "invalid_attachment"),
        ({"request_id": "1"}, "invalid_request"),
        ({"on_disconnect": "explode"}, "invalid_request"),
        ({"on_worker_loss": True}, "invalid_request"),
        ({"web_search": True}, "invalid_request"),
    ],
)
async def test_22_a_bad_body_is_a_problem_and_leaves_no_trace(
    product: Deployment,
    client: httpx.AsyncClient,
    database: asyncpg.Connection,
    members: dict[str, Any],
    code: str,
) -> None:
    chat_id = await create_chat(client)
    marker = new_marker()

    answer = await client.post(send_path(chat_id), json=message(marker) | members)

    assert_problem(answer, 400, code)
    assert await count_rows(database, chat_id) == {"turns": 0, "messages": 0, "outbox": 0}
    assert product.provider_requests(marker) == []


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'"text"', b"{}", b'{"content": "\xff"}', b'{"content":"\\ud800"}']
)
async def test_22_a_body_without_a_message_is_a_problem(
    client: httpx.AsyncClient, database: asyncpg.Connection, content: bytes
) -> None:
    chat_id = await create_chat(client)

    answer = await client.post(send_path(chat_id), content=content, headers={"Content-Type": "application/json"})

    assert_problem(answer, 400, "invalid_request")
    assert await count_rows(database, chat_id) == {"turns": 0, "messages": 0, "outbox": 0}


async def test_22_an_unknown_chat_is_not_found(client: httpx.AsyncClient) -> None:
    answer = await client.post(send_path(str(new_uuid4())), json=message("Hello?"))

    assert_problem(answer, 404, "chat_not_found")


async def test_26_text_arrives_while_the_provider_still_writes(product: Deployment, client: httpx.AsyncClient) -> None:
    chat_id = await create_chat(client)
    marker = new_marker()
    body = message(scripted(marker, tokens=24, rate=30))

    async with open_stream(client, "POST", send_path(chat_id), json=body) as stream:
        await stream.until("delta")
        [asked] = product.provider_requests(marker)
        assert asked["finished_at"] is None
        assert asked["deltas_sent"] < 24
        await stream.rest()

    # Text is merged only while a write is under way: an unhurried provider's deltas arrive one by one.
    assert len([event for event in stream.events if event.name == "delta"]) >= 12


async def test_26_no_byte_precedes_the_start(client: httpx.AsyncClient) -> None:
    chat_id = await create_chat(client)
    body = message(scripted(tokens=1, delay_ms=600))

    async with client.stream("POST", send_path(chat_id), json=body) as answer:
        chunks = [chunk async for chunk in answer.aiter_raw()]

    assert chunks[0].startswith(b"id: 0-1\nevent: stream_started\ndata: {")
    assert FRAME.fullmatch(chunks[0]), "the start is flushed by itself"

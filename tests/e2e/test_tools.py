"""What a turn brings to the provider beside words: tools, files and images; and what becomes of their results."""

from __future__ import annotations

from typing import Any

import asyncpg
import httpx
import pytest

from tests.support.deployment import Deployment
from tests.support.problems import assert_problem
from tests.support.sse import open_stream
from tests.support.stored import find_turn, store_file, store_vector_store
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

SHEET: dict[str, Any] = {
    "filename": "sums.xlsx",
    "content_type": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "provider_file_id": "file-5h33t1",
    "for_file_search": False,
    "for_code_interpreter": True,
}
WEB_CALL = {"name": "web_search", "details": {}}
CODE_CALL = {"name": "code_interpreter", "details": {"output": "42"}}
SEARCH_TOOL = {"type": "file_search", "vector_store_ids": ["vs_0a1b2c3d"], "max_num_results": 10}
CODE_TOOL = {"type": "code_interpreter", "container": {"type": "auto", "file_ids": ["file-5h33t1"]}}


def image(number: int) -> dict[str, Any]:
    return {
        "filename": f"{number}.png",
        "content_type": "image/png",
        "attachment_kind": "image",
        "for_file_search": False,
        "provider_file_id": f"file-1mage{number}",
    }


async def asked_with(product: Deployment, marker: str) -> dict[str, Any]:
    """The body of the one request with the marker."""
    (request,) = product.provider_requests(marker)
    body: dict[str, Any] = request["body"]
    return body


async def retry(client: httpx.AsyncClient, turn: ToldTurn) -> None:
    async with open_stream(client, "POST", f"{turn.turn_path}/retry") as stream:
        assert (await stream.rest())[-1].name == "done"


@pytest.mark.parametrize(
    ("has_text", "has_sheet", "tools"),
    [
        (True, False, [SEARCH_TOOL]),
        (False, True, [CODE_TOOL]),
        (True, True, [SEARCH_TOOL, CODE_TOOL]),
        (False, False, []),
    ],
)
async def test_64_65_files_bring_their_tools(
    client: httpx.AsyncClient,
    product: Deployment,
    database: asyncpg.Connection,
    has_text: bool,
    has_sheet: bool,
    tools: list[dict[str, Any]],
) -> None:
    chat_id, marker = await create_chat(client, model="gpt-5.2"), new_marker()
    if has_text:
        await store_file(database, chat_id)
        await store_vector_store(database, chat_id)
    if has_sheet:
        await store_file(database, chat_id, **SHEET)
    await ask(client, scripted(marker, text="Fine."), chat_id=chat_id)
    body = await asked_with(product, marker)
    assert body.get("tools", []) == tools
    assert body["metadata"]["feature"] == ("+".join(tool["type"] for tool in tools) or "none")
    assert body["max_tool_calls"] == 2


async def test_60_a_web_search_is_offered_only_if_asked_for(client: httpx.AsyncClient, product: Deployment) -> None:
    for wanted in (True, False):
        marker = new_marker()
        turn = await ask(client, scripted(marker, text="Fine."), web_search={"enabled": wanted})
        tools = (await asked_with(product, marker)).get("tools", [])
        assert tools == ([{"type": "web_search", "search_context_size": "low"}] if wanted else [])
        assert "tool" not in [event.name for event in turn.events]


async def test_66_code_runs_are_shown_and_counted(client: httpx.AsyncClient, database: asyncpg.Connection) -> None:
    chat_id = await create_chat(client, model="gpt-5.2")
    await store_file(database, chat_id, **SHEET)
    turn = await ask(client, scripted("?", text="42.", tools=[CODE_CALL] * 2), chat_id=chat_id)
    shown = [event.data for event in turn.events if event.name == "tool"]
    start = {"phase": "start", "name": "code_interpreter", "details": {}}
    done = {"phase": "done", "name": "code_interpreter", "details": {"output": "42"}}
    assert shown == [start, done] * 2
    row = await find_turn(database, turn)
    assert row["code_interpreter_completed_count"] == 2
    counted = "SELECT code_interpreter_calls FROM quota_usage WHERE user_id = $1 AND bucket = 'total'"
    assert {one[0] for one in await database.fetch(counted, row["requester_user_id"])} == {2}
    await ask(client, "plain", chat_id=chat_id)
    assert {one[0] for one in await database.fetch(counted, row["requester_user_id"])} == {2}


async def test_67_web_citations_come_once_and_are_kept(client: httpx.AsyncClient) -> None:
    page = {"type": "url_citation", "url": "https://example.org/a", "title": "A page", "start_index": 0, "end_index": 3}
    script = scripted("?", text="The answer.", tools=[WEB_CALL], citations=[page])
    turn = await ask(client, script, web_search={"enabled": True})
    names = [event.name for event in turn.events]
    assert names[-2:] == ["citations", "done"]
    assert names.count("citations") == 1
    (item,) = turn.events[-2].data["items"]
    assert item == {
        "source": "web",
        "title": "A page",
        "url": "https://example.org/a",
        "snippet": "The",
        "span": {"start": 0, "end": 3},
    }
    again = await client.post(send_path(turn.chat_id), json=message("?", request_id=turn.request_id))
    assert again.text.count("event: citations") == 1


async def test_68_file_citations_speak_of_our_attachments(
    client: httpx.AsyncClient, database: asyncpg.Connection
) -> None:
    chat_id = await create_chat(client, model="gpt-5.2")
    known = await store_file(database, chat_id)
    await store_vector_store(database, chat_id)
    cited = [
        {"type": "file_citation", "file_id": "file-0a1b2c3d", "filename": "as the provider calls it", "index": 3},
        {"type": "file_citation", "file_id": "file-unkn0wn", "filename": "secret.txt", "index": 3},
    ]
    search = {"name": "file_search", "details": {"files_searched": 1}}
    turn = await ask(client, scripted("?", text="As noted.", tools=[search], citations=cited), chat_id=chat_id)
    (item,) = next(event for event in turn.events if event.name == "citations").data["items"]
    assert item["source"] == "file"
    assert (item["attachment_id"], item["title"], item["snippet"]) == (known, "notes.txt", "")
    row = await find_turn(database, turn)
    used = "SELECT file_search_calls FROM quota_usage WHERE user_id = $1 AND bucket = 'total' AND period_type = 'daily'"
    assert await database.fetchval(used, row["requester_user_id"]) == 1


async def test_70_images_follow_the_text_in_the_order_of_the_request(
    client: httpx.AsyncClient, product: Deployment, database: asyncpg.Connection
) -> None:
    chat_id, marker = await create_chat(client, model="gpt-5.2"), new_marker()
    ids = [await store_file(database, chat_id, **image(number)) for number in range(5)]
    chosen = [ids[3], ids[0], ids[2]]
    turn = await ask(client, scripted(marker, text="Nice."), chat_id=chat_id, attachment_ids=chosen)
    content = (await asked_with(product, marker))["input"][-1]["content"]
    assert [part["type"] for part in content] == ["input_text", *["input_image"] * 3]
    assert [part["file_id"] for part in content[1:]] == ["file-1mage3", "file-1mage0", "file-1mage2"]
    question = (await list_messages(client, chat_id))[0]
    assert [one["attachment_id"] for one in question["attachments"]] == chosen
    assert (await find_turn(database, turn))["image_inputs"] == 3

    refused = await client.post(send_path(chat_id), json=message("five", attachment_ids=ids))
    assert_problem(refused, 400, "too_many_images")


async def test_47_a_retry_brings_what_is_left_of_the_attachments_and_the_web_search(
    client: httpx.AsyncClient, product: Deployment, database: asyncpg.Connection
) -> None:
    chat_id, marker = await create_chat(client, model="gpt-5.2"), new_marker()
    ids = [await store_file(database, chat_id, **image(number)) for number in range(3)]
    turn = await ask(
        client,
        scripted(marker, text="Nice."),
        chat_id=chat_id,
        attachment_ids=[ids[2], ids[1], ids[0]],
        web_search={"enabled": True},
    )
    await database.execute("UPDATE attachments SET deleted_at = now() WHERE id::text = $1", ids[1])
    await retry(client, turn)
    _, again = product.provider_requests(marker)
    images = [part["file_id"] for part in again["body"]["input"][-1]["content"][1:]]
    assert images == ["file-1mage2", "file-1mage0"]
    assert [tool["type"] for tool in again["body"]["tools"]] == ["web_search"]
    question = (await list_messages(client, chat_id))[0]
    assert [one["attachment_id"] for one in question["attachments"]] == [ids[2], ids[0]]


async def test_73_the_third_search_is_not_shown_and_ends_the_turn(
    client: httpx.AsyncClient, product: Deployment, database: asyncpg.Connection
) -> None:
    marker = new_marker()
    script = scripted(marker, text="Never seen.", tools=[WEB_CALL] * 3, terminal="hang")
    turn = await ask(client, script, web_search={"enabled": True})
    assert [event.name for event in turn.events] == ["stream_started", *["tool"] * 4, "error"]
    assert turn.terminal.data["code"] == "web_search_calls_exceeded"
    assert (await client.get(turn.turn_path)).json()["error_code"] == "web_search_calls_exceeded"
    assert (await find_turn(database, turn))["web_search_completed_count"] == 2
    (request,) = product.provider_requests(marker)
    assert request["closed_by_caller_at"] is not None


async def test_58_59_the_request_grows_by_a_pair_up_to_the_limit(
    client: httpx.AsyncClient, product: Deployment, database: asyncpg.Connection
) -> None:
    chat_id = await create_chat(client, model="gpt-5.2")
    for number in range(7):
        marker = new_marker()
        turn = await ask(client, scripted(marker, text=f"Answer {number}."), chat_id=chat_id)
        body = await asked_with(product, marker)
        assert len(body["input"]) == min(2 * number, 10) + 1
    row = await find_turn(database, turn)
    assert (body["stream"], body["store"], body["max_tool_calls"]) == (True, False, 2)
    assert body["max_output_tokens"] == row["max_output_tokens_applied"]
    assert body["user"] == f"{row['tenant_id']}:{row['requester_user_id']}"
    assert body["metadata"].keys() == {"tenant_id", "user_id", "chat_id", "request_type", "feature"}
    assert [part["type"] for item in body["input"][-3:] for part in item["content"]] == [
        "input_text",
        "output_text",
        "input_text",
    ]


async def test_59_deleted_turns_are_forgotten_and_partial_answers_are_not(
    client: httpx.AsyncClient, product: Deployment
) -> None:
    chat_id, marker, stopped = await create_chat(client), new_marker(), new_marker()
    deleted = await ask(client, scripted("gone", text="Forget this."), chat_id=chat_id)
    assert (await client.delete(deleted.turn_path)).status_code == 204
    body = message(scripted(stopped, tokens=500, rate=50))
    async with open_stream(client, "POST", send_path(chat_id), json=body) as stream:
        await stream.until("delta")
        await client.post(f"{send_path(chat_id).removesuffix('/messages:stream')}/turns/{body['request_id']}/cancel")
        await stream.rest()
    partial = (await list_messages(client, chat_id))[-1]["content"]
    assert partial.startswith("w0 ")
    await ask(client, scripted(marker, text="Fine."), chat_id=chat_id)
    texts = [item["content"][0]["text"] for item in (await asked_with(product, marker))["input"]]
    assert texts[1] == partial
    assert not any("Forget this." in text for text in texts)


async def test_61_what_cannot_fit_leaves_no_trace(client: httpx.AsyncClient, database: asyncpg.Connection) -> None:
    chat_id = await create_chat(client, model="gpt-5-nano")
    too_long = await client.post(send_path(chat_id), json=message("x" * 4 * 56_000))
    problem = assert_problem(too_long, 422, "input_too_long")
    assert problem["detail"].startswith("Message too long. Current: ")
    ids = [await store_file(database, chat_id, **image(number)) for number in range(4)]
    overflow = await client.post(send_path(chat_id), json=message("x" * 4 * 50_000, attachment_ids=ids))
    assert_problem(overflow, 422, "context_budget_exceeded")
    assert await list_messages(client, chat_id) == []

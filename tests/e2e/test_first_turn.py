"""The main path, told as a newcomer would walk it."""

from __future__ import annotations

import httpx

from tests.support.sse import open_stream, shown_text
from tests.support.turns import create_chat, events_path, message, scripted, send_path, turn_path


async def test_ask_and_read_the_answer(client: httpx.AsyncClient) -> None:
    """A question is answered by events; afterwards the answer is a message of the chat."""
    chat_id = await create_chat(client)
    body = message(scripted("How are you?", text="Very well, thank you.", rate=0))

    async with open_stream(client, "POST", send_path(chat_id), json=body) as stream:
        events = await stream.rest()

    assert events[0].name == "stream_started"
    assert events[-1].name == "done"
    assert shown_text(events) == "Very well, thank you."
    messages = (await client.get(f"/chats/{chat_id}/messages")).json()["items"]
    assert [item["role"] for item in messages] == ["user", "assistant"]
    assert messages[1]["content"] == "Very well, thank you."
    assert (await client.get(turn_path(chat_id, body["request_id"]))).json()["state"] == "done"


async def test_lose_the_connection_and_read_the_rest(
    client: httpx.AsyncClient, other_replica: httpx.AsyncClient
) -> None:
    """A client that comes back with the id of its last event gets exactly the rest, from any replica."""
    chat_id = await create_chat(client)
    body = message(scripted(tokens=30, rate=100))

    async with open_stream(client, "POST", send_path(chat_id), json=body) as stream:
        seen = await stream.take(8)
    resume = {"Last-Event-ID": seen[-1].id}
    path = events_path(chat_id, body["request_id"])
    async with open_stream(other_replica, "GET", path, headers=resume) as stream:
        seen += await stream.rest()

    assert shown_text(seen) == "".join(f"w{i} " for i in range(30))
    assert [event.name for event in seen].count("stream_started") == 1
    last = await client.get(path, headers={"Last-Event-ID": seen[-1].id})
    assert last.status_code == httpx.codes.NO_CONTENT

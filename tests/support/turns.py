"""Asking the product for turns, with answers scripted in the question."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import httpx

from shared.ids import new_uuid4
from tests.support.sse import Event, open_stream, shown_text
from tests.support.waiting import wait_until


def scripted(question: str = "?", **script: Any) -> str:
    """A message that tells the scripted provider how to answer it."""
    return f"@script {json.dumps(script)} {question}"


def new_marker() -> str:
    """A word that no other message holds, to find what the provider was asked about one."""
    return f"marker-{new_uuid4()}"


async def create_chat(client: httpx.AsyncClient, **body: Any) -> str:
    answer = await client.post("/chats", json=body)
    assert answer.status_code == httpx.codes.CREATED, answer.text
    chat_id: str = answer.json()["id"]
    return chat_id


def message(content: str, **members: Any) -> dict[str, Any]:
    """The body of a send, with a request id of its own unless told."""
    return {"content": content, "request_id": str(new_uuid4())} | members


def send_path(chat_id: str) -> str:
    return f"/chats/{chat_id}/messages:stream"


def events_path(chat_id: str, request_id: str | UUID) -> str:
    return f"/chats/{chat_id}/turns/{request_id}/events"


def turn_path(chat_id: str, request_id: str | UUID) -> str:
    return f"/chats/{chat_id}/turns/{request_id}"


@dataclass(frozen=True)
class ToldTurn:
    """A turn whose stream was read to its end."""

    chat_id: str
    body: dict[str, Any]
    """What was sent."""
    events: list[Event]

    @property
    def request_id(self) -> str:
        request_id: str = self.events[0].data["request_id"]
        return request_id

    @property
    def message_id(self) -> str:
        message_id: str = self.events[0].data["message_id"]
        return message_id

    @property
    def terminal(self) -> Event:
        return self.events[-1]

    @property
    def text(self) -> str:
        return shown_text(self.events)

    @property
    def events_path(self) -> str:
        return events_path(self.chat_id, self.request_id)

    @property
    def turn_path(self) -> str:
        return turn_path(self.chat_id, self.request_id)


async def ask(client: httpx.AsyncClient, content: str, *, chat_id: str | None = None, **members: Any) -> ToldTurn:
    """Send a message and read the answer to its end; in a chat of its own unless told."""
    chat_id = chat_id or await create_chat(client)
    body = message(content, **members)
    async with open_stream(client, "POST", send_path(chat_id), json=body) as stream:
        return ToldTurn(chat_id, body, await stream.rest())


async def start_and_leave(client: httpx.AsyncClient, chat_id: str, body: dict[str, Any]) -> None:
    """Send a message, and leave at its first event: the turn runs on."""
    async with open_stream(client, "POST", send_path(chat_id), json=body) as stream:
        await stream.take(1)


async def wait_for_state(client: httpx.AsyncClient, chat_id: str, request_id: str, state: str) -> dict[str, Any]:
    """The status of the turn, once it is in `state`."""
    status: dict[str, Any] = {}

    async def is_there() -> bool:
        status.update((await client.get(turn_path(chat_id, request_id))).json())
        return status.get("state") == state

    await wait_until(is_there, message=f"the turn is not in state {state}")
    return status


async def list_messages(client: httpx.AsyncClient, chat_id: str) -> list[dict[str, Any]]:
    answer = await client.get(f"/chats/{chat_id}/messages")
    assert answer.status_code == httpx.codes.OK, answer.text
    items: list[dict[str, Any]] = answer.json()["items"]
    return items

"""Coming to a turn that exists: joining it, going on after an event, and its replay once the log is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import asyncpg
import httpx
import pytest

from tests.support.deployment import Deployment
from tests.support.problems import assert_problem
from tests.support.sse import Event, open_stream, shown_text
from tests.support.stored import cancel_in_storage, cite_in_storage, delete_in_storage, expire_log
from tests.support.stream_rules import assert_well_formed
from tests.support.turns import (
    ToldTurn,
    ask,
    create_chat,
    events_path,
    message,
    scripted,
    send_path,
    start_and_leave,
    turn_path,
    wait_for_state,
)

MALFORMED = [
    "abc",
    "1",
    "1-",
    "-1",
    "1-2-3",
    "0x1-1",
    "12345678901-1",
    "s-",
    "s-0",
    "s-10",
    "s-1x",
    "S-1",
    "1 - 1",
    "*",
]
UNKNOWN = ["1-999", "7-3", "0-2", "9999999999-9999999999", "0-0"]


async def test_37_a_turn_goes_on_without_its_client(
    client: httpx.AsyncClient, other_replica: httpx.AsyncClient
) -> None:
    chat_id = await create_chat(client)
    body = message(scripted(tokens=20, rate=100), on_disconnect="continue")

    await start_and_leave(client, chat_id, body)

    await wait_for_state(client, chat_id, body["request_id"], "done")
    async with open_stream(other_replica, "GET", events_path(chat_id, body["request_id"])) as stream:
        events = await stream.rest()
    assert_well_formed(events)
    assert events[0].data["is_new_turn"] is True
    assert events[-1].name == "done"
    assert shown_text(events) == "".join(f"w{i} " for i in range(20))


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_38_after_any_event_of_an_ended_turn_comes_exactly_the_rest(
    client: httpx.AsyncClient, other_replica: httpx.AsyncClient, method: str
) -> None:
    tools = [{"name": "code_interpreter", "details": {"output": "42"}}]
    turn = await ask(client, scripted(tokens=12, rate=300, tools=tools))

    for position, event in enumerate(turn.events[:-1]):
        replica = (client, other_replica)[position % 2]
        assert await resume(replica, turn, event.id, method=method) == turn.events[position + 1 :]


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_38_after_any_event_of_a_running_turn_comes_exactly_the_rest(
    client: httpx.AsyncClient, other_replica: httpx.AsyncClient, method: str
) -> None:
    chat_id = await create_chat(client)
    body = message(scripted(tokens=30, rate=60))

    async with open_stream(client, "POST", send_path(chat_id), json=body) as stream, asyncio.TaskGroup() as tasks:
        turn = ToldTurn(chat_id, body, stream.events)
        resumed: list[asyncio.Task[list[Event]]] = []
        async for event in stream:
            if not event.is_terminal:
                replica = (client, other_replica)[len(resumed) % 2]
                resumed.append(tasks.create_task(resume(replica, turn, event.id, method=method)))

    assert_well_formed(turn.events)
    for position, task in enumerate(resumed):
        assert task.result() == turn.events[position + 1 :]


async def test_38_attached_clients_see_the_same(client: httpx.AsyncClient, other_replica: httpx.AsyncClient) -> None:
    chat_id = await create_chat(client)
    body = message(scripted(tokens=20, rate=60))

    async with open_stream(client, "POST", send_path(chat_id), json=body) as stream:
        await stream.take(3)
        turn = ToldTurn(chat_id, body, stream.events)
        seen = await asyncio.gather(
            resume(client, turn, None), resume(other_replica, turn, ""), resume(other_replica, turn, "", method="POST")
        )
        await stream.rest()

    assert list(seen) == [stream.events] * 3


async def test_38_a_client_that_drops_at_every_event_misses_nothing(
    client: httpx.AsyncClient, other_replica: httpx.AsyncClient
) -> None:
    chat_id = await create_chat(client)
    body = message(scripted(tokens=25, rate=100))
    path = events_path(chat_id, body["request_id"])
    seen: list[Event] = []

    async with open_stream(client, "POST", send_path(chat_id), json=body) as stream:
        seen += await stream.take(1)
    while not seen[-1].is_terminal:
        replica = (client, other_replica)[len(seen) % 2]
        async with open_stream(replica, "GET", path, headers={"Last-Event-ID": seen[-1].id}) as stream:
            seen += await stream.take(1)

    assert_well_formed(seen)
    assert shown_text(seen) == "".join(f"w{i} " for i in range(25))


async def test_40_after_the_terminal_event_there_is_nothing_more(client: httpx.AsyncClient) -> None:
    turn = await ask(client, scripted(text="Yes.", rate=0))
    after_end = {"Last-Event-ID": turn.terminal.id}

    answer = await client.get(turn.events_path, headers=after_end)

    assert answer.status_code == httpx.codes.NO_CONTENT
    assert answer.content == b""
    # A send always answers with a stream: it ends as it did.
    async with open_stream(client, "POST", send_path(turn.chat_id), json=turn.body, headers=after_end) as stream:
        assert await stream.rest() == [turn.terminal]


@pytest.mark.parametrize("cited", [False, True])
async def test_40_a_completed_turn_is_told_from_storage_when_its_log_has_expired(
    product: Deployment, client: httpx.AsyncClient, database: asyncpg.Connection, cited: bool
) -> None:
    turn = await ask(client, scripted(tokens=10, rate=0))
    if cited:
        await cite_in_storage(database, turn, '[{"source":"web","title":"T","url":"https://x.test/","snippet":""}]')
    expire_log(product, turn)

    events = await resume(client, turn, None)

    assert [event.name for event in events] == ["stream_started", "delta", *["citations"] * cited, "done"]
    assert [event.id for event in events] == [f"s-{k}" for k in range(1, len(events) + 1)]
    assert events[0].data == turn.events[0].data | {"is_new_turn": False}
    assert events[1].data == {"type": "text", "content": turn.text}
    assert events[-1].data == {name: value for name, value in turn.terminal.data.items() if name != "quota_warnings"}
    await check_cursors_of_replay(client, turn, events)


async def test_40_a_failed_turn_is_told_from_storage(product: Deployment, client: httpx.AsyncClient) -> None:
    turn = await ask(client, scripted(tokens=4, rate=0, terminal="eof"))
    expire_log(product, turn)

    events = await resume(client, turn, None)

    assert [(event.id, event.name) for event in events] == [("s-1", "stream_started"), ("s-2", "error")]
    assert events[0].data == turn.events[0].data | {"is_new_turn": False}
    assert events[1].data["code"] == turn.terminal.data["code"] == "provider_error"
    await check_cursors_of_replay(client, turn, events)


@pytest.mark.parametrize("script", [{"text": "Half an answer", "rate": 0}, {"http_status": 500}], ids=["text", "none"])
async def test_40_a_cancelled_turn_is_told_from_storage(
    product: Deployment, client: httpx.AsyncClient, database: asyncpg.Connection, script: dict[str, Any]
) -> None:
    turn = await ask(client, scripted(**script))
    await cancel_in_storage(database, turn)
    expire_log(product, turn)

    events = await resume(client, turn, None)

    partial = [{"type": "text", "content": "Half an answer"}] if "text" in script else []
    assert [event.data for event in events] == [
        turn.events[0].data | {"is_new_turn": False},
        *partial,
        {"code": "cancelled", "message": "Generation was cancelled"},
    ]
    await check_cursors_of_replay(client, turn, events)


async def test_40_a_cursor_of_the_replay_works_while_the_log_is_there(client: httpx.AsyncClient) -> None:
    """A client that was told from storage goes on there, whatever happens to the log."""
    turn = await ask(client, scripted(text="Yes.", rate=0))

    assert [event.id for event in await resume(client, turn, "s-1")] == ["s-2", "s-3"]
    answer = await client.get(turn.events_path, headers={"Last-Event-ID": "s-3"})
    assert answer.status_code == httpx.codes.NO_CONTENT


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_40_an_id_that_the_log_lacks_starts_over(client: httpx.AsyncClient, method: str) -> None:
    turn = await ask(client, scripted(tokens=5, rate=0))

    for cursor in UNKNOWN:
        assert await resume(client, turn, cursor, method=method) == turn.events


@pytest.mark.parametrize("cursor", ["s-1", "s-9", "1-999", "7-3"])
async def test_40_a_foreign_id_on_a_running_turn_starts_over(client: httpx.AsyncClient, cursor: str) -> None:
    chat_id = await create_chat(client)
    body = message(scripted(tokens=40, rate=40))

    async with open_stream(client, "POST", send_path(chat_id), json=body) as stream:
        await stream.until("delta")
        turn = ToldTurn(chat_id, body, stream.events)
        resumed = await resume(client, turn, cursor)
        await stream.rest()

    assert resumed == turn.events


@pytest.mark.parametrize("cursor", MALFORMED)
async def test_40_a_malformed_id_is_a_problem(client: httpx.AsyncClient, cursor: str) -> None:
    turn = await ask(client, scripted(text="Yes.", rate=0))
    headers = {"Last-Event-ID": cursor}

    answers = [
        await client.get(turn.events_path, headers=headers),
        await client.get(turn.events_path, params={"last_event_id": cursor}),
        await client.get(turn.events_path, headers=headers, params={"last_event_id": "0-1"}),
        await client.post(send_path(turn.chat_id), json=turn.body, headers=headers),
    ]

    for answer in answers:
        assert_problem(answer, 400, "invalid_request")


async def test_40_the_cursor_may_be_a_query_and_the_header_wins(client: httpx.AsyncClient) -> None:
    turn = await ask(client, scripted(tokens=3, rate=0))
    first, second = turn.events[0].id, turn.events[1].id

    by_query = await client.get(turn.events_path, params={"last_event_id": second})
    by_both = await client.get(turn.events_path, params={"last_event_id": first}, headers={"Last-Event-ID": second})
    by_empty_header = await client.get(turn.events_path, params={"last_event_id": first}, headers={"Last-Event-ID": ""})

    assert by_query.text == by_both.text
    assert [line for line in by_query.text.splitlines() if line.startswith("id: ")] == [
        f"id: {event.id}" for event in turn.events[2:]
    ]
    assert by_empty_header.text.startswith("id: 0-1\n")


@pytest.mark.parametrize("state", ["failed", "cancelled"])
async def test_40_a_send_with_a_cursor_joins_a_turn_in_any_state(
    client: httpx.AsyncClient, database: asyncpg.Connection, state: str
) -> None:
    turn = await ask(client, scripted(http_status=500))
    if state == "cancelled":
        await cancel_in_storage(database, turn)

    assert await resume(client, turn, "", method="POST") == turn.events
    assert await resume(client, turn, "0-1", method="POST") == turn.events[1:]


async def test_40_a_cursor_does_not_stop_a_new_turn(client: httpx.AsyncClient) -> None:
    chat_id = await create_chat(client)
    body = message(scripted(text="New.", rate=0))

    async with open_stream(client, "POST", send_path(chat_id), json=body, headers={"Last-Event-ID": "1-5"}) as stream:
        events = await stream.rest()

    assert_well_formed(events)
    assert shown_text(events) == "New."


@pytest.mark.parametrize("log", ["kept", "expired"])
async def test_a_deleted_turn_is_not_told_but_its_status_is(
    product: Deployment, client: httpx.AsyncClient, database: asyncpg.Connection, log: str
) -> None:
    turn = await ask(client, scripted(text="Gone.", rate=0))
    await delete_in_storage(database, turn)
    if log == "expired":
        expire_log(product, turn)

    for cursor in (None, "0-1", turn.terminal.id, "s-1", "s-3"):
        headers = {} if cursor is None else {"Last-Event-ID": cursor}
        assert_problem(await client.get(turn.events_path, headers=headers), 404, "turn_not_found")
        again = await client.post(send_path(turn.chat_id), json=turn.body, headers=headers)
        assert_problem(again, 409, "request_id_conflict")
    status = (await client.get(turn_path(turn.chat_id, turn.request_id))).json()
    assert (status["request_id"], status["state"]) == (turn.request_id, "done")


async def check_cursors_of_replay(client: httpx.AsyncClient, turn: ToldTurn, events: Sequence[Event]) -> None:
    """Check what comes after each frame of a replay, and after ids of the log that is gone."""
    for cursor in ("0-1", turn.terminal.id, "7-3"):
        assert await resume(client, turn, cursor) == events
        assert await resume(client, turn, cursor, method="POST") == events
    for position, event in enumerate(events[:-1]):
        assert await resume(client, turn, event.id) == events[position + 1 :]
        assert await resume(client, turn, event.id, method="POST") == events[position + 1 :]
    for cursor in (events[-1].id, "s-9"):
        answer = await client.get(turn.events_path, headers={"Last-Event-ID": cursor})
        assert (answer.status_code, answer.content) == (httpx.codes.NO_CONTENT, b"")
        assert await resume(client, turn, cursor, method="POST") == [events[-1]]


async def resume(client: httpx.AsyncClient, turn: ToldTurn, cursor: str | None, *, method: str = "GET") -> list[Event]:
    """All that a client at `cursor` is told, up to the end of the stream."""
    headers = {} if cursor is None else {"Last-Event-ID": cursor}
    path, body = (turn.events_path, None) if method == "GET" else (send_path(turn.chat_id), turn.body)
    async with open_stream(client, method, path, headers=headers, json=body) as stream:
        return [event for event in await stream.rest() if event.name != "ping"]

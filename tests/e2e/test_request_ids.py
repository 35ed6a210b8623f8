"""A request id names one turn of one chat, for good: repeats, races, and other people's ids."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

import asyncpg
import httpx
import pytest

from shared.ids import new_uuid4
from tests.support.deployment import Deployment
from tests.support.problems import assert_problem
from tests.support.sse import open_stream
from tests.support.stored import cancel_in_storage, count_rows, expire_log
from tests.support.tokens import Caller
from tests.support.turns import (
    ask,
    create_chat,
    events_path,
    list_messages,
    message,
    new_marker,
    scripted,
    send_path,
    start_and_leave,
    turn_path,
    wait_for_state,
)

CROWD = 50


@pytest.mark.parametrize("log", ["kept", "expired"])
async def test_27_a_completed_turn_is_replayed(
    product: Deployment,
    client: httpx.AsyncClient,
    other_replica: httpx.AsyncClient,
    database: asyncpg.Connection,
    log: str,
) -> None:
    marker = new_marker()
    turn = await ask(client, scripted(marker, tokens=12, rate=0))
    if log == "expired":
        expire_log(product, turn)
    rows = await count_rows(database, turn.chat_id)
    chat = (await client.get(f"/chats/{turn.chat_id}")).json()

    for replica in (client, other_replica, client):
        async with open_stream(replica, "POST", send_path(turn.chat_id), json=turn.body) as stream:
            started, delta, done = await stream.rest()

        assert [event.id for event in (started, delta, done)] == ["s-1", "s-2", "s-3"]
        assert started.data == turn.events[0].data | {"is_new_turn": False}
        assert delta.data == {"type": "text", "content": turn.text}
        assert done.data == {name: value for name, value in turn.terminal.data.items() if name != "quota_warnings"}
    assert len(product.provider_requests(marker)) == 1
    assert await count_rows(database, turn.chat_id) == rows
    assert (await client.get(f"/chats/{turn.chat_id}")).json() == chat


async def test_27_the_id_alone_decides(client: httpx.AsyncClient) -> None:
    turn = await ask(client, scripted(text="The first answer.", rate=0))
    other = message(scripted(text="Another answer.", rate=0), request_id=turn.request_id.upper())

    async with open_stream(client, "POST", send_path(turn.chat_id), json=other) as stream:
        events = await stream.rest()

    assert events[1].data["content"] == "The first answer."
    assert len(await list_messages(client, turn.chat_id)) == 2


async def test_28_the_id_of_a_running_turn_conflicts(
    client: httpx.AsyncClient, other_replica: httpx.AsyncClient
) -> None:
    chat_id = await create_chat(client)
    body = message(scripted(tokens=30, rate=30))

    async with open_stream(client, "POST", send_path(chat_id), json=body) as stream:
        for replica in (client, other_replica):
            assert_problem(await replica.post(send_path(chat_id), json=body), 409, "request_id_conflict")
        events = await stream.rest()

    assert events[-1].name == "done"


async def test_28_the_id_of_a_failed_turn_conflicts(client: httpx.AsyncClient) -> None:
    turn = await ask(client, scripted(http_status=500))

    assert_problem(await client.post(send_path(turn.chat_id), json=turn.body), 409, "request_id_conflict")


@pytest.mark.parametrize("script", [{"text": "Half", "rate": 0}, {"http_status": 500}])
async def test_28_the_id_of_a_cancelled_turn_conflicts(
    client: httpx.AsyncClient, database: asyncpg.Connection, script: dict[str, Any]
) -> None:
    turn = await ask(client, scripted(**script))
    await cancel_in_storage(database, turn)

    assert_problem(await client.post(send_path(turn.chat_id), json=turn.body), 409, "request_id_conflict")


async def test_29_a_chat_runs_one_turn_at_a_time(client: httpx.AsyncClient, other_replica: httpx.AsyncClient) -> None:
    chat_id = await create_chat(client)

    async with open_stream(client, "POST", send_path(chat_id), json=message(scripted(tokens=30, rate=30))) as stream:
        for replica in (client, other_replica):
            answer = await replica.post(send_path(chat_id), json=message("And now?"))
            assert_problem(answer, 409, "generation_in_progress")
        await stream.until("done")
        # The stream is still open: the terminal event is what frees the chat.
        again = await ask(other_replica, scripted(text="Now.", rate=0), chat_id=chat_id)

    assert again.terminal.name == "done"
    assert len(await list_messages(client, chat_id)) == 4


async def test_30_a_replay_does_not_wait_for_the_turn_that_runs(client: httpx.AsyncClient) -> None:
    first = await ask(client, scripted(text="One.", rate=0))
    body = message(scripted(tokens=30, rate=30))

    async with open_stream(client, "POST", send_path(first.chat_id), json=body) as running:
        await running.take(2)
        async with open_stream(client, "POST", send_path(first.chat_id), json=first.body) as stream:
            replayed = await stream.rest()
        assert replayed[1].data["content"] == "One."
        assert (await client.get(turn_path(first.chat_id, body["request_id"]))).json()["state"] == "running"
        assert (await running.rest())[-1].name == "done"


@pytest.mark.parametrize("ids", ["same", "distinct"])
async def test_31_of_two_simultaneous_sends_one_wins(
    client: httpx.AsyncClient, other_replica: httpx.AsyncClient, ids: str
) -> None:
    for _ in range(3):
        chat_id = await create_chat(client)
        one = message(scripted(tokens=1, delay_ms=600))
        other = one if ids == "same" else message(one["content"])

        answers = await asyncio.gather(
            client.post(send_path(chat_id), json=one), other_replica.post(send_path(chat_id), json=other)
        )

        assert sorted(answer.status_code for answer in answers) == [200, 409]


@pytest.mark.parametrize(("ids", "code"), [("same", "request_id_conflict"), ("distinct", "generation_in_progress")])
async def test_a_crowd_of_simultaneous_sends_starts_one_provider_call(
    product: Deployment,
    client: httpx.AsyncClient,
    other_replica: httpx.AsyncClient,
    database: asyncpg.Connection,
    ids: str,
    code: str,
) -> None:
    chat_id = await create_chat(client)
    marker = new_marker()
    body = message(scripted(marker, text="Once.", rate=0, delay_ms=2_000))
    bodies = [body if ids == "same" else message(body["content"]) for _ in range(CROWD)]
    refusals: list[httpx.Response] = []

    async def send(replica: httpx.AsyncClient, body: dict[str, Any]) -> list[str]:
        async with replica.stream("POST", send_path(chat_id), json=body) as answer:
            if answer.status_code != httpx.codes.OK:
                await answer.aread()
                refusals.append(answer)
                return []
            return [line async for line in answer.aiter_lines()]

    replicas = (client, other_replica)
    answers = await asyncio.gather(*(send(replicas[i % 2], body) for i, body in enumerate(bodies)))

    assert Counter(answer.status_code for answer in refusals) == {409: CROWD - 1}
    for refusal in refusals:
        assert_problem(refusal, 409, code)
    [told] = [lines for lines in answers if lines]
    assert told.count("event: done") == 1
    assert len(product.provider_requests(marker)) == 1
    assert (await count_rows(database, chat_id))["turns"] == 1
    assert [item["content"] for item in await list_messages(client, chat_id)] == [body["content"], "Once."]


async def test_32_status_of_a_turn(client: httpx.AsyncClient, other_replica: httpx.AsyncClient) -> None:
    chat_id = await create_chat(client)
    body = message(scripted(tokens=30, rate=30))
    path = turn_path(chat_id, body["request_id"])

    async with open_stream(client, "POST", send_path(chat_id), json=body) as stream:
        [started] = await stream.take(1)
        running = (await other_replica.get(path)).json()
        await stream.until("done")
        # The event is not told before the fact.
        done = (await other_replica.get(path)).json()

    assert running.keys() == {"request_id", "state", "updated_at"}
    assert running["state"] == "running"
    assert done == {
        "request_id": body["request_id"],
        "state": "done",
        "assistant_message_id": started.data["message_id"],
        "updated_at": done["updated_at"],
    }
    assert done["updated_at"] > running["updated_at"]
    for replica in (client, other_replica, client):
        assert (await replica.get(path)).json() == done


async def test_32_unknown_turns_and_chats_are_not_found(client: httpx.AsyncClient) -> None:
    chat_id = await create_chat(client)

    assert_problem(await client.get(turn_path(chat_id, new_uuid4())), 404, "turn_not_found")
    assert_problem(await client.get(turn_path(str(new_uuid4()), new_uuid4())), 404, "chat_not_found")
    assert_problem(await client.get(turn_path(chat_id, "1")), 400, "invalid_request")


async def test_one_request_id_in_two_chats_is_two_turns(client: httpx.AsyncClient) -> None:
    request_id = str(new_uuid4())

    turns = await asyncio.gather(
        *(ask(client, scripted(text=f"Answer {n}.", rate=0, delay_ms=200), request_id=request_id) for n in range(2))
    )

    for n, turn in enumerate(turns):
        assert turn.text == f"Answer {n}."
        async with open_stream(client, "GET", turn.events_path) as stream:
            assert await stream.rest() == turn.events
        status = (await client.get(turn.turn_path)).json()
        assert status["assistant_message_id"] == turn.message_id
    assert turns[0].message_id != turns[1].message_id


async def test_one_request_id_of_two_tenants_is_two_turns(product: Deployment) -> None:
    marker, request_id = new_marker(), str(new_uuid4())

    async with product.client() as one, product.client() as other:
        turns = await asyncio.gather(
            ask(one, scripted(marker, text="For one.", rate=0), request_id=request_id),
            ask(other, scripted(marker, text="For the other.", rate=0), request_id=request_id),
        )
        assert [turn.text for turn in turns] == ["For one.", "For the other."]
        async with open_stream(other, "GET", turns[1].events_path) as stream:
            assert await stream.rest() == turns[1].events
        async with open_stream(other, "POST", send_path(turns[1].chat_id), json=turns[1].body) as stream:
            assert (await stream.rest())[1].data["content"] == "For the other."
    assert len(product.provider_requests(marker)) == 2


@pytest.mark.parametrize("state", ["running", "done", "error"])
@pytest.mark.parametrize("stranger", ["of another tenant", "of the same tenant"])
async def test_nobody_learns_of_the_turns_of_others(
    product: Deployment, caller: Caller, client: httpx.AsyncClient, stranger: str, state: str
) -> None:
    """What a stranger is told of a turn that exists is, but for ids, what is told of one that does not."""
    scripts: dict[str, dict[str, Any]] = {
        "running": {"tokens": 20, "rate": 20},
        "done": {"text": "Secret."},
        "error": {"http_status": 500},
    }
    chat_id = await create_chat(client)
    body = message(scripted(**scripts[state]))
    await start_and_leave(client, chat_id, body)
    await wait_for_state(client, chat_id, body["request_id"], state)

    other = Caller() if stranger == "of another tenant" else Caller(tenant_id=caller.tenant_id)
    async with product.client(other) as foreign:
        own_chat_id = await create_chat(foreign)
        unknown = (str(new_uuid4()), str(new_uuid4()))
        assert await _tell_all(foreign, chat_id, body) == await _tell_all(
            foreign, unknown[0], message("?", request_id=unknown[1])
        )
        # Not even the pair of a chat of one's own and the request id of somebody else.
        assert await _tell_reads(foreign, own_chat_id, body["request_id"]) == await _tell_reads(
            foreign, own_chat_id, unknown[1]
        )
        assert await list_messages(foreign, own_chat_id) == []


async def _tell_all(client: httpx.AsyncClient, chat_id: str, body: dict[str, Any]) -> list[tuple[Any, ...]]:
    resume = {"Last-Event-ID": "0-1"}
    sends = [
        await client.post(send_path(chat_id), json=body),
        await client.post(send_path(chat_id), json=body, headers=resume),
        await client.post(send_path(chat_id), json=message("?")),
    ]
    ids = (chat_id, body["request_id"])
    return [_without_ids(answer, ids) for answer in sends] + await _tell_reads(client, *ids)


async def _tell_reads(client: httpx.AsyncClient, chat_id: str, request_id: str) -> list[tuple[Any, ...]]:
    resume = {"Last-Event-ID": "0-1"}
    path = events_path(chat_id, request_id)
    answers = [
        await client.get(turn_path(chat_id, request_id)),
        await client.get(path),
        await client.get(path, headers=resume),
        await client.get(path, params={"last_event_id": "s-1"}),
    ]
    return [_without_ids(answer, (chat_id, request_id)) for answer in answers]


def _without_ids(answer: httpx.Response, ids: Sequence[str]) -> tuple[Any, ...]:
    """Status, headers and the very bytes of a body, with placeholders for what must differ."""
    assert answer.status_code == httpx.codes.NOT_FOUND
    content = answer.content
    for known in (*ids, answer.json()["trace_id"]):
        content = content.replace(known.encode(), b"*")
    varying = {"date", "traceparent", "x-request-id"}
    headers = sorted((name, value) for name, value in answer.headers.items() if name not in varying)
    return answer.status_code, headers, content

"""Retrying, editing and deleting the last turn of a chat."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import asyncpg
import httpx

from shared.ids import new_uuid4
from tests.support.deployment import Deployment
from tests.support.problems import assert_problem
from tests.support.sse import Event, open_stream, shown_text
from tests.support.turns import create_chat, message, scripted, send_path, turn_path
from tests.support.waiting import wait_until

FINISHES: dict[str, Any] = {"text": "The answer.", "rate": 0}


async def ask(client: httpx.AsyncClient, chat_id: str, content: str | None = None, **members: Any) -> list[Event]:
    body = message(content or scripted(**FINISHES), **members)
    async with open_stream(client, "POST", send_path(chat_id), json=body) as stream:
        return await stream.rest()


async def retry(client: httpx.AsyncClient, chat_id: str, request_id: str, **options: Any) -> list[Event]:
    async with open_stream(client, "POST", f"{turn_path(chat_id, request_id)}/retry", **options) as stream:
        return await stream.rest()


async def contents(client: httpx.AsyncClient, chat_id: str) -> list[str]:
    items = (await client.get(f"/chats/{chat_id}/messages")).json()["items"]
    return [item["content"] for item in items]


async def test_41_a_retry_takes_the_place_of_an_ended_turn(product: Deployment, client: httpx.AsyncClient) -> None:
    """Of a done, a failed and a cancelled turn: new ids, the old messages are gone, the old row names its successor."""
    for script in (FINISHES, {"http_status": 500}, {"tokens": 1_000, "rate": 100}):
        chat_id = await create_chat(client)
        body = message(scripted(**script))
        old = body["request_id"]
        async with open_stream(client, "POST", send_path(chat_id), json=body) as stream:
            if "tokens" in script:
                await stream.until("delta")
                await client.post(f"{turn_path(chat_id, old)}/cancel")
            await stream.rest()
        before = (await client.get(f"/chats/{chat_id}/messages")).json()["items"]

        async with open_stream(client, "POST", f"{turn_path(chat_id, old)}/retry") as stream:
            started = await stream.until("stream_started")
            if "tokens" in script:
                await client.post(f"{turn_path(chat_id, started.data['request_id'])}/cancel")
            await stream.rest()

        assert started.data["is_new_turn"] is True
        assert started.data["request_id"] != old
        after = (await client.get(f"/chats/{chat_id}/messages")).json()["items"]
        assert not {item["id"] for item in before} & {item["id"] for item in after}
        assert after[0]["content"] == body["content"]
        status = (await client.get(turn_path(chat_id, old))).json()
        assert status["replaced_by_request_id"] == started.data["request_id"]


async def test_42_an_edit_stores_the_new_text(client: httpx.AsyncClient) -> None:
    """Blank text is refused; a retry takes any body."""
    chat_id = await create_chat(client)
    first = (await ask(client, chat_id))[0].data["request_id"]
    for body in ({"content": " "}, {}, {"content": 1}):
        assert_problem(await client.patch(turn_path(chat_id, first), json=body), 400, "invalid_request")
    edited = scripted("another", text="Another answer.", rate=0)
    path = turn_path(chat_id, first)
    async with open_stream(client, "PATCH", path, json={"content": edited}) as stream:
        events = await stream.rest()
    assert shown_text(events) == "Another answer."
    assert await contents(client, chat_id) == [edited, "Another answer."]
    for options in ({"content": b"not json"}, {"json": [1]}, {}):
        last = await retry(client, chat_id, events[0].data["request_id"], **options)
        events = last
        assert events[-1].name == "done"


async def test_43_only_the_last_and_ended_turn_can_be_changed(client: httpx.AsyncClient) -> None:
    chat_id = await create_chat(client)
    first, second = [(await ask(client, chat_id))[0].data["request_id"] for _ in range(2)]

    async def assert_refused(request_id: str, status: int, code: str) -> None:
        path = turn_path(chat_id, request_id)
        assert_problem(await client.post(f"{path}/retry"), status, code)
        assert_problem(await client.patch(path, json={"content": "x"}), status, code)
        assert_problem(await client.delete(path), status, code)

    await assert_refused(first, 409, "not_latest_turn")
    await assert_refused(str(new_uuid4()), 404, "turn_not_found")
    replaced_by = (await retry(client, chat_id, second))[0].data["request_id"]
    await assert_refused(second, 409, "not_latest_turn")
    async with open_stream(
        client, "POST", send_path(chat_id), json=(running := message(scripted(tokens=500, rate=50)))
    ) as stream:
        await stream.until("delta")
        await assert_refused(running["request_id"], 400, "invalid_turn_state")
        await assert_refused(replaced_by, 409, "not_latest_turn")
        await client.post(f"{turn_path(chat_id, running['request_id'])}/cancel")


async def test_44_of_concurrent_retries_one_wins(client: httpx.AsyncClient, other_replica: httpx.AsyncClient) -> None:
    for _ in range(5):
        chat_id = await create_chat(client)
        request_id = (await ask(client, chat_id))[0].data["request_id"]
        path = f"{turn_path(chat_id, request_id)}/retry"
        answers = await asyncio.gather(client.post(path), other_replica.post(path), client.post(path))
        assert sorted(answer.status_code for answer in answers) == [200, 409, 409]
        assert len(await contents(client, chat_id)) == 2


async def test_45_after_a_delete_the_turn_before_is_the_last(client: httpx.AsyncClient) -> None:
    chat_id = await create_chat(client)
    first, second = [(await ask(client, chat_id))[0].data["request_id"] for _ in range(2)]
    assert (await client.delete(turn_path(chat_id, second))).status_code == httpx.codes.NO_CONTENT
    assert len(await contents(client, chat_id)) == 2
    assert (await client.get(turn_path(chat_id, second))).json()["state"] == "done"
    assert (await client.delete(turn_path(chat_id, first))).status_code == httpx.codes.NO_CONTENT
    assert await contents(client, chat_id) == []


async def test_46_a_refused_edit_leaves_the_old_turn_alone(product: Deployment, client: httpx.AsyncClient) -> None:
    chat_id = await create_chat(client)
    request_id = (await ask(client, chat_id))[0].data["request_id"]
    before = await contents(client, chat_id)
    answer = await client.patch(turn_path(chat_id, request_id), json={"content": "word " * 200_000})
    assert_problem(answer, 422, "input_too_long")
    assert await contents(client, chat_id) == before
    connection = await asyncpg.connect(product.database_url)
    try:
        rows = await connection.fetch("SELECT deleted_at FROM chat_turns WHERE chat_id = $1", chat_id)
    finally:
        await connection.close()
    assert [row["deleted_at"] for row in rows] == [None]


async def test_a_retry_has_an_idempotency_key_too(client: httpx.AsyncClient) -> None:
    """The same key again replays the new turn, and starts no third one."""
    chat_id = await create_chat(client)
    old = (await ask(client, chat_id))[0].data["request_id"]
    key = {"request_id": str(new_uuid4())}
    first = await retry(client, chat_id, old, params=key)
    assert first[0].data["request_id"] == key["request_id"]
    again = await retry(client, chat_id, old, params=key)
    assert again[0].data == first[0].data | {"is_new_turn": False}
    assert len(await contents(client, chat_id)) == 2


async def test_a_retry_repeated_before_it_is_answered_is_one_retry(
    client: httpx.AsyncClient, other_replica: httpx.AsyncClient, database: asyncpg.Connection
) -> None:
    """Its id decides, as that of a send: who names a place joins the new turn, who does not learns that it exists."""
    chat_id = await create_chat(client)
    old = (await ask(client, chat_id))[0].data["request_id"]

    async def retry_at_once(headers: dict[str, str]) -> list[httpx.Response]:
        """At both replicas, which all find the old turn unchanged and then wait for its chat."""
        nonlocal old
        path, old = f"{turn_path(chat_id, old)}/retry", str(new_uuid4())
        async with asyncio.TaskGroup() as tasks, database.transaction():
            await database.execute("SELECT FROM chats WHERE id = $1 FOR UPDATE", UUID(chat_id))
            asked = [
                tasks.create_task(replica.post(path, params={"request_id": old}, headers=headers))
                for replica in (client, other_replica)
            ]
            await wait_until(lambda: _have_waiting(database, len(asked)))
        return [task.result() for task in asked]

    one, other = await retry_at_once({"Last-Event-ID": ""})
    assert one.status_code == other.status_code == httpx.codes.OK, (one.text, other.text)
    assert one.text == other.text
    [refused] = [answer for answer in await retry_at_once({}) if answer.status_code != httpx.codes.OK]
    assert_problem(refused, 409, "request_id_conflict")
    assert len(await contents(client, chat_id)) == 2


async def _have_waiting(database: asyncpg.Connection, statements: int) -> bool:
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    # The snapshot of statistics is kept for the length of a transaction otherwise.
    await database.execute("SELECT pg_stat_clear_snapshot()")
    return bool(await database.fetchval(waiting) >= statements)


async def test_a_replaced_turn_is_no_part_of_the_history(product: Deployment, client: httpx.AsyncClient) -> None:
    chat_id, marker = await create_chat(client), new_uuid4().hex
    request_id = (await ask(client, chat_id, scripted("first", text="Old answer.", rate=0)))[0].data["request_id"]
    edited = scripted(f"second {marker}", text="New answer.", rate=0)
    async with open_stream(client, "PATCH", turn_path(chat_id, request_id), json={"content": edited}) as stream:
        await stream.rest()
    [request] = product.provider_requests(marker)
    assert [item["role"] for item in request["body"]["input"]] == ["user"]

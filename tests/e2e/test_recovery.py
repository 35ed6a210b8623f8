"""What becomes of turns when processes and servers die under them: each still ends once, and clients get all of it."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import asyncpg
import httpx
import pytest

from shared.db.migrate import migrate
from shared.settings import DatabaseSettings, Settings
from tests.support.deployment import Deployment, Process, deployment
from tests.support.engines import TestEngines
from tests.support.sse import Event, Stream, open_stream, shown_text
from tests.support.turns import (
    ask,
    create_chat,
    events_path,
    list_messages,
    message,
    new_marker,
    scripted,
    send_path,
    turn_path,
    wait_for_state,
)
from tests.support.waiting import wait_until

LEASE_SECS = 3
TAKEOVER_SECS = LEASE_SECS + 2 + 2
"""Lease, sweep, and two seconds for everything else."""


def words(count: int) -> str:
    return "".join(f"w{i} " for i in range(count))


@pytest.fixture(scope="module")
def mortal_engines() -> Iterator[TestEngines]:
    with TestEngines() as engines:
        yield engines


@pytest.fixture(scope="module")
def mortal(mortal_engines: TestEngines) -> Iterator[Deployment]:
    """A product whose processes and engines may be killed; each test leaves it complete."""
    migrate(Settings(database=DatabaseSettings.model_validate({"url": mortal_engines.database_url})))
    with deployment(
        database_url=mortal_engines.database_url,
        valkey_url=mortal_engines.redis_url,
        apis=2,
        workers=2,
        TURNS__LEASE_SECS=str(LEASE_SECS),
        ORPHAN_WATCHDOG__SCAN_INTERVAL_SECS="0.5",
        ORPHAN_WATCHDOG__TIMEOUT_SECS="10",
    ) as running:
        yield running


@pytest.fixture
async def client(mortal: Deployment) -> AsyncIterator[httpx.AsyncClient]:
    async with mortal.client() as client:
        yield client


@pytest.fixture
async def database(mortal: Deployment) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(mortal.database_url)
    yield connection
    await connection.close()


async def holder(mortal: Deployment, database: asyncpg.Connection, request_id: str) -> Process:
    """The worker process that holds the turn."""

    async def owner() -> str | None:
        found: str | None = await database.fetchval(
            "SELECT lease_owner FROM chat_turns WHERE request_id = $1", request_id
        )
        return found

    await wait_until(owner)
    pid = int(str(await owner()).split(":")[1])
    return next(worker for worker in mortal.workers if worker.popen.pid == pid)


def replace_worker(mortal: Deployment, dead: Process) -> None:
    mortal.workers.remove(dead)
    mortal.start_worker()


async def turn_row(database: asyncpg.Connection, request_id: str) -> dict[str, Any]:
    row = await database.fetchrow("SELECT * FROM chat_turns WHERE request_id = $1", request_id)
    assert row is not None
    return dict(row)


async def assert_ended_whole(
    client: httpx.AsyncClient, chat_id: str, request_id: str, events: list[Event], text: str
) -> None:
    """The client holds the whole text, the message is the same, and a newcomer is told the same."""
    assert events[-1].name == "done"
    assert shown_text(events) == text
    assert [item["content"] for item in await list_messages(client, chat_id)][1] == text
    async with open_stream(client, "GET", events_path(chat_id, request_id)) as stream:
        assert shown_text(await stream.rest()) == text


async def test_75_a_worker_killed_before_the_first_delta_is_not_noticed(
    mortal: Deployment, client: httpx.AsyncClient, database: asyncpg.Connection
) -> None:
    """Another worker finishes the turn; the stream starts once, without a restart."""
    chat_id, marker = await create_chat(client), new_marker()
    body = message(scripted(marker, tokens=5, delay_ms=2_000))
    async with open_stream(client, "POST", send_path(chat_id), json=body) as stream:
        await wait_until(lambda: mortal.provider_requests(marker))
        dead = await holder(mortal, database, body["request_id"])
        dead.kill()
        events = await stream.rest()
    names = [event.name for event in events]
    assert (names.count("stream_started"), names.count("restart")) == (1, 0)
    await assert_ended_whole(client, chat_id, body["request_id"], events, words(5))
    assert (await turn_row(database, body["request_id"]))["attempt"] == 2
    replace_worker(mortal, dead)


async def test_76_a_worker_killed_after_text_is_replaced_within_lease_and_sweep(
    mortal: Deployment, client: httpx.AsyncClient, database: asyncpg.Connection
) -> None:
    """Attached and returning clients get `restart` and then the whole answer."""
    chat_id = await create_chat(client)
    body = message(scripted(tokens=60, rate=20))
    path = events_path(chat_id, body["request_id"])
    async with open_stream(client, "POST", send_path(chat_id), json=body) as stream:
        seen = await stream.take(10)
        dead = await holder(mortal, database, body["request_id"])
        dead.kill()
        killed_at = time.monotonic()
        await stream.until("restart")
        assert time.monotonic() - killed_at < TAKEOVER_SECS
        await stream.rest()
    restart = next(event for event in stream.events if event.name == "restart")
    assert restart.data == {"attempt": 2, "reason": "worker_lost"}
    await assert_ended_whole(client, chat_id, body["request_id"], stream.events, words(60))
    async with open_stream(client, "GET", path, headers={"Last-Event-ID": seen[-1].id}) as late:
        returned = seen + await late.rest()
    assert shown_text(returned) == words(60)
    assert [event.name for event in returned].count("restart") == 1
    row = await turn_row(database, body["request_id"])
    assert (row["state"], row["attempt"], row["lost_attempts"], row["lease_owner"]) == ("completed", 2, 1, None)
    replace_worker(mortal, dead)


async def test_76_a_client_that_cannot_start_over_gets_an_error(
    mortal: Deployment, client: httpx.AsyncClient, database: asyncpg.Connection
) -> None:
    """(`on_worker_loss: fail`) The turn fails, nothing is stored, and the chat takes a new send at once."""
    chat_id = await create_chat(client)
    body = message(scripted(tokens=200, rate=20), on_worker_loss="fail")
    async with open_stream(client, "POST", send_path(chat_id), json=body) as stream:
        await stream.until("delta")
        dead = await holder(mortal, database, body["request_id"])
        dead.kill()
        last = (await stream.rest())[-1]
    assert (last.name, last.data["code"]) == ("error", "orphan_timeout")
    assert [item["role"] for item in await list_messages(client, chat_id)] == ["user"]
    again = await ask(client, scripted(text="Again.", rate=0), chat_id=chat_id)
    assert again.events[-1].name == "done"
    replace_worker(mortal, dead)


async def test_77_an_api_killed_after_accept_takes_no_turn_with_it(mortal: Deployment) -> None:
    """The turn goes on; its status and its events are to be had from another replica."""
    async with mortal.client(api=0) as client, mortal.client(api=1) as other:
        other.headers = client.headers
        chat_id = await create_chat(client)
        body = message(scripted(tokens=60, rate=30))
        dead = mortal.apis[0]
        async with open_stream(client, "POST", send_path(chat_id), json=body) as stream:
            seen = await stream.take(8)
            dead.kill()
            with pytest.raises(httpx.RemoteProtocolError):
                await stream.rest()
        seen = stream.events
        status = (await other.get(turn_path(chat_id, body["request_id"]))).json()
        assert status["state"] in ("running", "done")
        path = events_path(chat_id, body["request_id"])
        async with open_stream(other, "GET", path, headers={"Last-Event-ID": seen[-1].id}) as stream:
            seen = seen + await stream.rest()
        await assert_ended_whole(other, chat_id, body["request_id"], seen, words(60))
    mortal.apis.remove(dead)
    mortal.start_api()


async def test_78_an_end_that_was_committed_is_told_though_nobody_announces_it(
    mortal: Deployment, client: httpx.AsyncClient, database: asyncpg.Connection
) -> None:
    """The worker dies between its commit and the terminal event: attached clients get the answer from storage."""
    chat_id = await create_chat(client)
    body = message(scripted(tokens=500, rate=20))
    async with open_stream(client, "POST", send_path(chat_id), json=body) as stream:
        await stream.until("delta")
        dead = await holder(mortal, database, body["request_id"])
        dead.popen.send_signal(signal.SIGSTOP)
        row = await turn_row(database, body["request_id"])
        async with database.transaction():
            await database.execute(
                "INSERT INTO messages (id, tenant_id, chat_id, request_id, role, content, created_at)"
                " VALUES ($1, $2, $3, $4, 'assistant', 'committed', now())",
                row["planned_message_id"],
                row["tenant_id"],
                row["chat_id"],
                row["request_id"],
            )
            await database.execute(
                "UPDATE chat_turns SET state = 'completed', completed_at = now(), assistant_message_id = $2,"
                " lease_owner = NULL, lease_expires_at = NULL WHERE id = $1",
                row["id"],
                row["planned_message_id"],
            )
        dead.kill()
        await stream.rest()
    assert stream.events[-1].name == "done"
    assert shown_text(stream.events) == "committed"
    assert stream.events[-1].id == "s-3"
    replace_worker(mortal, dead)


@pytest.mark.parametrize("how", ["flush", "kill"])
async def test_79_a_lost_valkey_loses_no_turn(
    mortal: Deployment,
    mortal_engines: TestEngines,
    client: httpx.AsyncClient,
    database: asyncpg.Connection,
    how: str,
) -> None:
    """FLUSHALL, or kill -9 and a restart without data, while turns run: all complete, clients hold all text."""
    chats = [await create_chat(client) for _ in range(6)]
    bodies = [message(scripted(tokens=80, rate=20)) for _ in chats]

    async def read(chat_id: str, body: dict[str, Any], started: asyncio.Event) -> list[Event]:
        """Read to the end, coming back with the cursor for as long as the stream breaks off."""
        async with open_stream(client, "POST", send_path(chat_id), json=body) as stream:
            events = await _read_on(stream, started)
        while not events[-1].is_terminal:
            headers = {"Last-Event-ID": events[-1].id}
            async with open_stream(client, "GET", events_path(chat_id, body["request_id"]), headers=headers) as stream:
                events = events + await _read_on(stream, started)
        return events

    begun = [asyncio.Event() for _ in chats]
    async with asyncio.TaskGroup() as tasks:
        reading = [
            tasks.create_task(read(chat_id, body, started))
            for chat_id, body, started in zip(chats, bodies, begun, strict=True)
        ]
        async with asyncio.timeout(20):
            for started in begun:
                await started.wait()
        if how == "flush":
            mortal.valkey().flushall()
        else:
            mortal_engines.valkey.kill()
            mortal_engines.valkey.start()
    for chat_id, body, task in zip(chats, bodies, reading, strict=True):
        await assert_ended_whole(client, chat_id, body["request_id"], task.result(), words(80))
        row = await turn_row(database, body["request_id"])
        assert (row["state"], row["lost_attempts"]) == ("completed", 0)


async def _read_on(stream: Stream, started: asyncio.Event) -> list[Event]:
    async for event in stream:
        if event.name == "delta":
            started.set()
    return [event for event in stream.events if event.name != "ping"]


async def test_79_a_turn_that_waits_survives_the_loss_of_the_queue(
    mortal: Deployment, client: httpx.AsyncClient
) -> None:
    """With every worker stopped a turn waits; the queue is emptied; a sweeper finds the turn again."""
    for worker in mortal.workers:
        worker.popen.send_signal(signal.SIGSTOP)
    try:
        chat_id = await create_chat(client)
        body = message(scripted(tokens=5, rate=0))
        async with open_stream(client, "POST", send_path(chat_id), json=body) as stream:
            await stream.until("stream_started")
            mortal.valkey().flushall()
            for worker in mortal.workers:
                worker.popen.send_signal(signal.SIGCONT)
            await stream.rest()
        await assert_ended_whole(client, chat_id, body["request_id"], stream.events, words(5))
    finally:
        for worker in mortal.workers:
            worker.popen.send_signal(signal.SIGCONT)


async def test_80_a_worker_that_wakes_up_late_writes_nothing_more(
    mortal: Deployment, client: httpx.AsyncClient, database: asyncpg.Connection
) -> None:
    """Paused for longer than its lease, its turn was finished by another; it is fenced off in log and database."""
    chat_id = await create_chat(client)
    body = message(scripted(tokens=40, rate=20))
    async with open_stream(client, "POST", send_path(chat_id), json=body) as stream:
        await stream.take(6)
        asleep = await holder(mortal, database, body["request_id"])
        asleep.popen.send_signal(signal.SIGSTOP)
        await stream.until("restart")
        await stream.take(5)
        asleep.popen.send_signal(signal.SIGCONT)
        await stream.rest()
    after = stream.events[[event.name for event in stream.events].index("restart") :]
    assert {event.id.partition("-")[0] for event in after} == {"2"}
    await assert_ended_whole(client, chat_id, body["request_id"], stream.events, words(40))
    row = await turn_row(database, body["request_id"])
    assert (row["state"], row["attempt"]) == ("completed", 2)


async def test_81_a_rolling_restart_fails_no_turn(mortal: Deployment) -> None:
    """Workers hand back, replicas send their clients away with `retry`; every turn completes for every client."""
    async with mortal.client() as client:
        chats = [await create_chat(client) for _ in range(6)]
        bodies = [message(scripted(tokens=120, rate=20)) for _ in chats]

        async def read(chat_id: str, body: dict[str, Any], started: asyncio.Event) -> list[Event]:
            async with open_stream(client, "POST", send_path(chat_id), json=body) as stream:
                events = await _read_on(stream, started)
            path = events_path(chat_id, body["request_id"])
            while not events[-1].is_terminal:
                headers = {"Last-Event-ID": events[-1].id}
                try:
                    async with newest_replica() as fresh, open_stream(fresh, "GET", path, headers=headers) as stream:
                        events = events + await _read_on(stream, started)
                except httpx.TransportError:
                    await asyncio.sleep(0.1)  # as a client would, before it tries again
            return events

        def newest_replica() -> httpx.AsyncClient:
            fresh = mortal.client(api=-1)
            fresh.headers = client.headers
            return fresh

        begun = [asyncio.Event() for _ in chats]
        async with asyncio.TaskGroup() as tasks:
            reading = [
                tasks.create_task(read(chat_id, body, started))
                for chat_id, body, started in zip(chats, bodies, begun, strict=True)
            ]
            for started in begun:
                await started.wait()
            for worker in list(mortal.workers):
                await asyncio.to_thread(worker.stop)
                mortal.workers.remove(worker)
                await asyncio.to_thread(mortal.start_worker)
            for api in list(mortal.apis):
                await asyncio.to_thread(mortal.start_api)
                api.popen.send_signal(signal.SIGTERM)
                api.popen.send_signal(signal.SIGINT)
                await asyncio.to_thread(api.popen.wait, 20)
                mortal.apis.remove(api)
        for chat_id, body, task in zip(chats, bodies, reading, strict=True):
            assert task.result()[-1].name == "done"
            assert shown_text(task.result()) == words(120)
            async with mortal.client() as fresh:
                fresh.headers = client.headers
                status = (await fresh.get(turn_path(chat_id, body["request_id"]))).json()
                assert status["state"] == "done"


async def test_81_a_restarted_postgresql_loses_no_accepted_turn(
    mortal: Deployment, mortal_engines: TestEngines
) -> None:
    """Turns that run, or want to end, while PostgreSQL is away end once it is back."""
    async with mortal.client() as client:
        chats = [await create_chat(client) for _ in range(5)]
        bodies = [message(scripted(tokens=30, rate=20)) for _ in chats]
        async with asyncio.TaskGroup() as tasks:
            asking = [
                tasks.create_task(_ask(client, chat_id, body)) for chat_id, body in zip(chats, bodies, strict=True)
            ]
            await asyncio.sleep(0.7)  # into the middle of the answers; any moment will do
            await asyncio.to_thread(mortal_engines.postgres.kill)
            await asyncio.sleep(2)  # past the end of the answers, which cannot be stored now
            await asyncio.to_thread(mortal_engines.postgres.start)
        for chat_id, body, task in zip(chats, bodies, asking, strict=True):
            await wait_for_state(client, chat_id, body["request_id"], "done")
            assert shown_text(task.result()) == words(30)
            assert len(await list_messages(client, chat_id)) == 2


async def _ask(client: httpx.AsyncClient, chat_id: str, body: dict[str, Any]) -> list[Event]:
    async with open_stream(client, "POST", send_path(chat_id), json=body) as stream:
        return await stream.rest()


async def test_83_a_turn_that_moves_is_never_taken_for_stuck(mortal: Deployment, client: httpx.AsyncClient) -> None:
    """Longer than the watchdog's patience, but with the provider's connection open all the time."""
    told = await ask(client, scripted(tokens=24, rate=2))
    assert told.events[-1].name == "done"
    assert shown_text(told.events) == words(24)

"""What turns cost whose workers, queues or databases were lost under them: each is charged once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest

from shared.db.migrate import migrate
from shared.settings import DatabaseSettings, Settings
from tests.support.books import find_differences
from tests.support.catalogs import STANDARD
from tests.support.deployment import Deployment, Process, deployment
from tests.support.engines import TestEngines
from tests.support.sse import Event, open_stream
from tests.support.turns import create_chat, events_path, message, new_marker, scripted, send_path, wait_for_state
from tests.support.waiting import wait_until

USAGE = {"input_tokens": 1_000, "output_tokens": 100}
CHARGE = 1_000 + 3 * 100
ANSWER: dict[str, Any] = {"tokens": 40, "rate": 20, "usage": USAGE}


@pytest.fixture(scope="module")
def own_engines() -> Iterator[TestEngines]:
    with TestEngines() as engines:
        yield engines


@pytest.fixture(scope="module")
def mortal(own_engines: TestEngines) -> Iterator[Deployment]:
    migrate(Settings(database=DatabaseSettings.model_validate({"url": own_engines.database_url})))
    with deployment(
        database_url=own_engines.database_url,
        valkey_url=own_engines.redis_url,
        apis=1,
        workers=2,
        TURNS__LEASE_SECS="3",
    ) as running:
        yield running


@pytest.fixture
async def client(mortal: Deployment) -> AsyncIterator[httpx.AsyncClient]:
    async with mortal.client() as client:
        yield client


@pytest.fixture
async def books(mortal: Deployment) -> AsyncIterator[Books]:
    books = Books(mortal.database_url)
    yield books
    assert await books.differences() == []


class Books:
    """Opens a connection for each question: PostgreSQL may have died since the last one."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def fetch(self, query: str, *values: Any) -> list[asyncpg.Record]:
        connection = await asyncpg.connect(self._url)
        try:
            return list(await connection.fetch(query, *values))
        finally:
            await connection.close()

    async def differences(self) -> list[str]:
        connection = await asyncpg.connect(self._url)
        try:
            return await find_differences(connection)
        finally:
            await connection.close()

    async def event_of(self, request_id: str) -> dict[str, Any]:
        """The one usage event of the turn."""
        [row] = await self.fetch(
            "SELECT payload::text FROM outbox_messages WHERE queue = 'usage_snapshot' AND payload->>'request_id' = $1",
            request_id,
        )
        event: dict[str, Any] = json.loads(row["payload"])
        return event

    async def holder(self, mortal: Deployment, request_id: str) -> Process:
        [row] = await self.fetch("SELECT lease_owner FROM chat_turns WHERE request_id = $1", UUID(request_id))
        pid = int(str(row["lease_owner"]).split(":")[1])
        return next(worker for worker in mortal.workers if worker.popen.pid == pid)


async def read_to_the_end(client: httpx.AsyncClient, chat_id: str, body: dict[str, Any]) -> None:
    """Come back for as long as the stream breaks off."""
    events: list[Event] = []
    method, path = "POST", send_path(chat_id)
    options: dict[str, Any] = {"json": body}
    while not events or not events[-1].is_terminal:
        async with open_stream(client, method, path, **options) as stream:
            events += [event for event in await stream.rest() if event.name != "ping"]
        method, path = "GET", events_path(chat_id, body["request_id"])
        options = {"headers": {"Last-Event-ID": events[-1].id if events else ""}}
    assert events[-1].name == "done"


async def test_76_a_turn_that_another_worker_finishes_is_charged_once(
    mortal: Deployment, client: httpx.AsyncClient, books: Books
) -> None:
    """For what the last attempt used; the lost one is not charged."""
    chat_id, body = await create_chat(client, model=STANDARD), message(scripted(**ANSWER))
    async with open_stream(client, "POST", send_path(chat_id), json=body) as stream:
        await stream.until("delta")
        dead = await books.holder(mortal, body["request_id"])
        dead.kill()
        await stream.until("restart")
        assert (await stream.rest())[-1].name == "done"
    event = await books.event_of(body["request_id"])
    assert (event["settlement_method"], event["outcome"], event["committed_credits_micro"]) == (
        "actual",
        "completed",
        CHARGE,
    )
    mortal.workers.remove(dead)
    mortal.start_worker()


async def test_76_a_turn_that_cannot_start_over_is_charged_its_estimate(
    mortal: Deployment, client: httpx.AsyncClient, books: Books
) -> None:
    chat_id, body = await create_chat(client), message(scripted(**ANSWER), on_worker_loss="fail")
    async with open_stream(client, "POST", send_path(chat_id), json=body) as stream:
        await stream.until("delta")
        dead = await books.holder(mortal, body["request_id"])
        dead.kill()
        assert (await stream.rest())[-1].data["code"] == "orphan_timeout"
    event = await books.event_of(body["request_id"])
    told = (event["settlement_method"], event["outcome"], event["terminal_state"], event["error_code"])
    assert told == ("estimated", "aborted", "failed", "orphan_timeout")
    assert event["committed_credits_micro"] > 0
    mortal.workers.remove(dead)
    mortal.start_worker()


async def test_79_a_lost_valkey_neither_loses_nor_doubles_a_charge(
    mortal: Deployment, client: httpx.AsyncClient, books: Books
) -> None:
    chats = [await create_chat(client, model=STANDARD) for _ in range(4)]
    markers = [new_marker() for _ in chats]
    bodies = [message(scripted(marker, **ANSWER)) for marker in markers]
    async with asyncio.TaskGroup() as tasks:
        for chat_id, body in zip(chats, bodies, strict=True):
            tasks.create_task(read_to_the_end(client, chat_id, body))
        await wait_until(lambda: all(mortal.provider_requests(marker) for marker in markers))
        mortal.valkey().flushall()
    for body in bodies:
        event = await books.event_of(body["request_id"])
        assert (event["settlement_method"], event["committed_credits_micro"]) == ("actual", CHARGE)


async def test_81_a_lost_postgresql_neither_loses_nor_doubles_a_charge(
    mortal: Deployment, own_engines: TestEngines, client: httpx.AsyncClient, books: Books
) -> None:
    """It dies under turns that run, and is away when they want to settle."""
    chats = [await create_chat(client, model=STANDARD) for _ in range(4)]
    bodies = [message(scripted(**ANSWER)) for _ in chats]
    async with asyncio.TaskGroup() as tasks:
        for chat_id, body in zip(chats, bodies, strict=True):
            tasks.create_task(_start(client, chat_id, body))
    await asyncio.to_thread(own_engines.postgres.kill)
    await asyncio.sleep(2.5)  # past the end of the answers, which cannot be stored now
    await asyncio.to_thread(own_engines.postgres.start)
    for chat_id, body in zip(chats, bodies, strict=True):
        await wait_for_state(client, chat_id, body["request_id"], "done")
        event = await books.event_of(body["request_id"])
        assert (event["settlement_method"], event["committed_credits_micro"]) == ("actual", CHARGE)


async def _start(client: httpx.AsyncClient, chat_id: str, body: dict[str, Any]) -> None:
    """Send, and leave once the answer has begun."""
    async with open_stream(client, "POST", send_path(chat_id), json=body) as stream:
        await stream.until("delta")

"""What clients are told while Valkey, PostgreSQL or the provider is away, and that nothing must be restarted after."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import asyncpg
import httpx
import pytest

from shared.db.migrate import migrate
from shared.embedded.server import EmbeddedServer
from shared.ids import new_uuid4
from shared.settings import DatabaseSettings, Settings
from tests.support.deployment import Deployment, deployment
from tests.support.engines import TestEngines
from tests.support.problems import assert_problem
from tests.support.sse import open_stream
from tests.support.stored import count_rows
from tests.support.stream_rules import assert_well_formed
from tests.support.tokens import Caller
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


@pytest.fixture(scope="module")
def fragile_engines() -> Iterator[TestEngines]:
    with TestEngines() as engines:
        yield engines


@pytest.fixture(scope="module")
def fragile(fragile_engines: TestEngines) -> Iterator[Deployment]:
    """A product whose engines and provider may be killed."""
    migrate(Settings(database=DatabaseSettings.model_validate({"url": fragile_engines.database_url})))
    with deployment(
        database_url=fragile_engines.database_url, valkey_url=fragile_engines.redis_url, apis=1, workers=1
    ) as running:
        yield running


@pytest.fixture
async def client(fragile: Deployment) -> AsyncIterator[httpx.AsyncClient]:
    async with fragile.client(Caller()) as client:
        yield client


@contextmanager
def killed(engine: EmbeddedServer) -> Iterator[None]:
    engine.kill()
    try:
        yield
    finally:
        engine.start()


def assert_unavailable(answer: httpx.Response) -> None:
    assert_problem(answer, 503, "service_unavailable")
    assert int(answer.headers["retry-after"]) >= 1


async def test_a_send_without_valkey_is_refused_and_leaves_no_trace(
    fragile: Deployment, fragile_engines: TestEngines, client: httpx.AsyncClient
) -> None:
    chat_id = await create_chat(client)
    chat = (await client.get(f"/chats/{chat_id}")).json()
    marker = new_marker()
    body = message(scripted(marker, text="Back.", rate=0))

    with killed(fragile_engines.valkey):
        for _ in range(2):
            assert_unavailable(await client.post(send_path(chat_id), json=body))
        # What is wrong with the request itself is told all the same.
        assert_problem(await client.post(send_path(chat_id), json={"content": ""}), 400, "invalid_request")
        assert_problem(await client.post(send_path(str(new_uuid4())), json=body), 404, "chat_not_found")
        connection = await asyncpg.connect(fragile.database_url)
        assert await count_rows(connection, chat_id) == {"turns": 0, "messages": 0, "outbox": 0}
        await connection.close()
        assert (await client.get(f"/chats/{chat_id}")).json() == chat

    # The same request, once more: the refused ones have not used up its id.
    async with open_stream(client, "POST", send_path(chat_id), json=body) as stream:
        events = await stream.rest()
    assert_well_formed(events)
    assert events[-1].name == "done"
    assert len(fragile.provider_requests(marker)) == 1


async def test_an_ended_turn_is_told_without_valkey(fragile_engines: TestEngines, client: httpx.AsyncClient) -> None:
    turn = await ask(client, scripted(text="Still here.", rate=0))

    with killed(fragile_engines.valkey):
        async with open_stream(client, "GET", turn.events_path) as stream:
            events = await stream.rest()
        async with open_stream(client, "POST", send_path(turn.chat_id), json=turn.body) as stream:
            assert await stream.rest() == events
        assert (await client.get(turn.turn_path)).json()["state"] == "done"

    assert [event.id for event in events] == ["s-1", "s-2", "s-3"]
    assert events[1].data["content"] == "Still here."


async def test_without_postgresql_everything_is_refused_and_works_again_after(
    fragile: Deployment, fragile_engines: TestEngines, client: httpx.AsyncClient
) -> None:
    turn = await ask(client, scripted(text="Before.", rate=0))
    marker = new_marker()
    body = message(scripted(marker, text="After.", rate=0))

    with killed(fragile_engines.postgres):
        for _ in range(2):
            assert_unavailable(await client.post(send_path(turn.chat_id), json=body))
            assert_unavailable(await client.get(turn.turn_path))
            assert_unavailable(await client.get(turn.events_path))
            assert_unavailable(await client.get(f"/chats/{turn.chat_id}"))
            assert_unavailable(await client.post("/chats", json={}))

    async with open_stream(client, "POST", send_path(turn.chat_id), json=body) as stream:
        events = await stream.rest()
    assert_well_formed(events)
    assert events[-1].name == "done"
    assert [item["content"] for item in (await list_messages(client, turn.chat_id))[1::2]] == ["Before.", "After."]
    assert len(fragile.provider_requests(marker)) == 1


async def test_a_restart_of_postgresql_is_not_noticed_afterwards(
    fragile_engines: TestEngines, client: httpx.AsyncClient
) -> None:
    """The connections that died with it were idle: neither process may stumble over them later."""
    turn = await ask(client, scripted(text="Before.", rate=0))

    with killed(fragile_engines.postgres):
        pass

    assert (await client.get(turn.turn_path)).status_code == httpx.codes.OK
    # Had the worker lost its first claim, the turn would wait for a sweep: at least 2 s.
    async with asyncio.timeout(2):
        again = await ask(client, scripted(text="After.", rate=0), chat_id=turn.chat_id)
    assert again.text == "After."


async def test_a_running_turn_outlives_postgresql(fragile_engines: TestEngines, client: httpx.AsyncClient) -> None:
    """The text goes on while the database is away; the end is told once it is committed."""
    chat_id = await create_chat(client)
    body = message(scripted(tokens=20, rate=40))

    async with open_stream(client, "POST", send_path(chat_id), json=body) as stream:
        await stream.until("delta")
        with killed(fragile_engines.postgres):
            while "w19 " not in [event.data.get("content") for event in stream.events]:
                await stream.take(1)
            assert not stream.events[-1].is_terminal
        await stream.rest()

    assert_well_formed(stream.events)
    assert stream.events[-1].name == "done", stream.events[-1]
    await wait_for_state(client, chat_id, body["request_id"], "done")
    assert (await list_messages(client, chat_id))[1]["content"] == "".join(f"w{i} " for i in range(20))


async def test_a_provider_that_cannot_be_reached_is_an_error_of_the_turn(
    fragile: Deployment, client: httpx.AsyncClient
) -> None:
    fragile.provider.stop()
    try:
        turn = await ask(client, "Is anybody there?")
        assert_well_formed(turn.events)
        assert turn.terminal.data == {"code": "provider_error", "message": "Provider is currently unavailable"}
        status = (await client.get(turn.turn_path)).json()
        assert (status["state"], status["error_code"]) == ("error", "provider_error")
        assert [item["role"] for item in await list_messages(client, turn.chat_id)] == ["user"]
    finally:
        fragile.restart_provider()

    again = await ask(client, scripted(text="Yes.", rate=0), chat_id=turn.chat_id)
    assert again.terminal.name == "done"

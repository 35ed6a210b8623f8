"""Limits of one user over several replicas, a full queue, and what becomes of both without Valkey."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import asyncpg
import httpx
import pytest

from shared.db.migrate import migrate
from shared.settings import DatabaseSettings, Settings
from shared.valkey.keyspace import LimitKeys
from tests.support.deployment import Deployment, deployment
from tests.support.engines import TestEngines
from tests.support.problems import assert_problem
from tests.support.sse import Stream, open_stream
from tests.support.tokens import Caller
from tests.support.turns import ask, create_chat, events_path, message, scripted, send_path
from tests.support.waiting import wait_until

BURST = 40
STREAMS = 2
TURNS = 2
QUEUE = 3

SLOW = scripted(tokens=2_000, rate=20)


@pytest.fixture(scope="module")
def limited_engines() -> Iterator[TestEngines]:
    with TestEngines() as engines:
        yield engines


@pytest.fixture(scope="module")
def limited(limited_engines: TestEngines) -> Iterator[Deployment]:
    """Two replicas whose limits any test reaches with a user of its own."""
    migrate(Settings(database=DatabaseSettings.model_validate({"url": limited_engines.database_url})))
    with deployment(
        database_url=limited_engines.database_url,
        valkey_url=limited_engines.redis_url,
        apis=2,
        workers=1,
        LIMITS__REQUESTS_PER_SECOND="0.02",
        LIMITS__BURST=str(BURST),
        LIMITS__CONCURRENT_STREAMS_PER_USER=str(STREAMS),
        LIMITS__CONCURRENT_TURNS_PER_USER=str(TURNS),
        LIMITS__MAX_QUEUED_TURNS=str(QUEUE),
    ) as running:
        yield running


@pytest.fixture
async def here(limited: Deployment, caller: Caller) -> AsyncIterator[httpx.AsyncClient]:
    async with limited.client(caller, api=0) as client:
        yield client


@pytest.fixture
async def there(limited: Deployment, caller: Caller) -> AsyncIterator[httpx.AsyncClient]:
    async with limited.client(caller, api=1) as client:
        yield client


def assert_limited(answer: httpx.Response, name: str, policy: str) -> None:
    assert_problem(answer, 429, "rate_limited")
    retry_after = int(answer.headers["retry-after"])
    assert retry_after >= 1
    assert answer.headers["ratelimit-policy"] == f'"{name}";{policy}'
    assert answer.headers["ratelimit"] == f'"{name}";r=0;t={retry_after}'


@asynccontextmanager
async def running_turn(client: httpx.AsyncClient, chat_id: str) -> AsyncIterator[tuple[Stream, str]]:
    """A turn that is being written, and its request id; it is stopped at the end."""
    body = message(SLOW)
    async with open_stream(client, "POST", send_path(chat_id), json=body) as stream:
        await stream.until("delta")
        try:
            yield stream, body["request_id"]
        finally:
            answer = await client.post(f"{events_path(chat_id, body['request_id']).removesuffix('events')}cancel")
            assert answer.status_code in (200, 202, 429), answer.text


async def wait_until_free(deployed: Deployment, caller: Caller) -> None:
    """No stream of the caller counts any more."""
    valkey = deployed.valkey()
    await wait_until(lambda: valkey.exists(LimitKeys(caller.tenant_id, caller.user_id).streams) == 0)


async def test_requests_at_all_replicas_draw_on_one_bucket_and_a_replay_on_none(
    here: httpx.AsyncClient, there: httpx.AsyncClient
) -> None:
    told = await ask(here, scripted(text="Once.", rate=0))  # two: the chat and the send
    answers = await asyncio.gather(*((here, there)[i % 2].get("/models") for i in range(BURST)))
    assert sorted(answer.status_code for answer in answers) == [200] * (BURST - 2) + [429] * 2
    assert_limited(await there.get("/chats"), "requests", f"q={BURST};w={BURST * 50}")
    new = await here.post(send_path(told.chat_id), json=message("One more"))
    assert_limited(new, "requests", f"q={BURST};w={BURST * 50}")
    # The id of a finished turn is looked at first.
    async with open_stream(there, "POST", send_path(told.chat_id), json=told.body) as stream:
        assert [event.name for event in await stream.rest()] == ["stream_started", "delta", "done"]


async def test_turns_at_all_replicas_count_until_they_end(here: httpx.AsyncClient, there: httpx.AsyncClient) -> None:
    chats = [await create_chat(here) for _ in range(TURNS + 1)]
    refused = "turns", f'q={TURNS};qu="concurrent-requests"'
    async with running_turn(here, chats[0]) as (stream, _):
        async with running_turn(there, chats[1]):
            assert_limited(await here.post(send_path(chats[2]), json=message("?")), *refused)
            # What is wrong in the chat itself is told before any limit.
            answer = await there.post(send_path(chats[0]), json=message("?"))
            assert_problem(answer, 409, "generation_in_progress")
        told = await ask(there, scripted(text="Free again.", rate=0), chat_id=chats[1])
        assert told.terminal.name == "done"
        # A retry is a turn like any other.
        async with running_turn(there, chats[2]):
            assert_limited(await here.post(f"{told.turn_path}/retry"), *refused)
        async with open_stream(here, "POST", f"{told.turn_path}/retry") as again:
            assert (await again.rest())[-1].name == "done"
    assert stream.events[-1].name == "delta"


async def test_streams_at_all_replicas_count_while_they_are_open(
    limited: Deployment, caller: Caller, here: httpx.AsyncClient, there: httpx.AsyncClient
) -> None:
    chat_id = await create_chat(here)
    refused = "streams", f'q={STREAMS};qu="concurrent-requests"'
    async with running_turn(here, chat_id) as (_, request_id):
        path = events_path(chat_id, request_id)
        async with open_stream(there, "GET", path) as second:
            await second.take(1)
            assert_limited(await here.get(path), *refused)
            assert_limited(await there.post(send_path(await create_chat(there)), json=message("?")), *refused)
            # A send that joins its own turn is answered before the limits, and then counts.
            headers = {"Last-Event-ID": ""}
            body = message("?", request_id=request_id)
            async with open_stream(there, "POST", send_path(chat_id), json=body, headers=headers) as third:
                await third.take(1)
        async with limited.client(Caller(), api=0) as stranger:
            assert_problem(await stranger.get(path), 404, "chat_not_found")
    await wait_until_free(limited, caller)
    async with open_stream(there, "GET", path) as replayed:
        assert (await replayed.rest())[-1].is_terminal


async def test_a_killed_replica_frees_the_places_of_its_streams(
    limited: Deployment, caller: Caller, here: httpx.AsyncClient
) -> None:
    chat_id = await create_chat(here)
    keys = LimitKeys(caller.tenant_id, caller.user_id)
    valkey = limited.valkey()
    with limited.extra_api() as doomed:
        async with limited.client(caller, api=doomed) as client:
            body = message(SLOW)
            async with open_stream(client, "POST", send_path(chat_id), json=body) as stream:
                await stream.until("delta")
                path = events_path(chat_id, body["request_id"])
                async with open_stream(client, "GET", path) as second:
                    await second.take(1)
                    doomed.kill()
    assert_limited(await here.get(path), "streams", f'q={STREAMS};qu="concurrent-requests"')
    # Nobody renews them: ten seconds pass.
    places = valkey.zrange(keys.streams, 0, -1)
    assert len(places) == STREAMS  # type: ignore[arg-type]
    for place in places:  # type: ignore[union-attr]
        valkey.zincrby(keys.streams, -10_000, place)
    async with open_stream(here, "GET", path) as again:
        await again.until("delta")
        await here.post(f"{path.removesuffix('events')}cancel")
        await again.rest()


async def test_a_full_queue_refuses_turns_and_loses_none(limited: Deployment) -> None:
    """The worker is held: nothing leaves the queue meanwhile."""
    [worker] = limited.workers
    clients = [limited.client(Caller(), api=i % 2) for i in range(QUEUE + 1)]
    chats = [await create_chat(client) for client in clients]
    worker.popen.send_signal(signal.SIGSTOP)
    try:
        async with asyncio.TaskGroup() as tasks:
            waiting = []
            for client, chat_id in zip(clients[:QUEUE], chats, strict=False):
                started = asyncio.Event()
                waiting.append(tasks.create_task(_read_all(client, chat_id, started)))
                await started.wait()
            answer = await clients[-1].post(send_path(chats[-1]), json=message("?"))
            assert_problem(answer, 503, "queue_full")
            assert int(answer.headers["retry-after"]) >= 1
            connection = await asyncpg.connect(limited.database_url)
            assert await connection.fetchval("SELECT count(*) FROM chat_turns WHERE chat_id = $1", chats[-1]) == 0
            await connection.close()
            worker.popen.send_signal(signal.SIGCONT)
        assert [task.result() for task in waiting] == ["done"] * QUEUE
        told = await ask(clients[-1], scripted(text="Now.", rate=0), chat_id=chats[-1])
        assert told.terminal.name == "done"
    finally:
        worker.popen.send_signal(signal.SIGCONT)
        for client in clients:
            await client.aclose()


async def test_without_valkey_only_what_needs_it_is_refused_unless_limits_must_hold(
    limited: Deployment, limited_engines: TestEngines, here: httpx.AsyncClient, caller: Caller
) -> None:
    told = await ask(here, scripted(text="Before.", rate=0))
    with limited.extra_api(LIMITS__FAIL_OPEN="false") as strict:
        async with limited.client(caller, api=strict) as strictly:
            limited_engines.valkey.kill()
            try:
                assert (await here.get(f"/chats/{told.chat_id}")).status_code == 200
                async with open_stream(here, "GET", told.events_path) as stream:
                    assert (await stream.rest())[-1].name == "done"
                for client in (here, strictly):
                    for send in (
                        client.post(send_path(told.chat_id), json=message("?")),
                        client.post(f"{told.turn_path}/retry"),
                        client.patch(told.turn_path, json={"content": "Another"}),
                    ):
                        assert_unavailable(await send)
                    # A replay asks nobody, and what is wrong with a send is told first.
                    async with open_stream(client, "POST", send_path(told.chat_id), json=told.body) as stream:
                        assert (await stream.rest())[-1].name == "done"
                    wrong = message("?", attachment_ids=[told.message_id])
                    assert_problem(await client.post(send_path(told.chat_id), json=wrong), 400, "invalid_attachment")
                assert_unavailable(await strictly.get(f"/chats/{told.chat_id}"))
                assert_unavailable(await strictly.get(told.events_path))
            finally:
                limited_engines.valkey.start()
            assert (await strictly.get(f"/chats/{told.chat_id}")).status_code == 200


def assert_unavailable(answer: httpx.Response) -> None:
    assert_problem(answer, 503, "service_unavailable")
    assert int(answer.headers["retry-after"]) >= 1


async def _read_all(client: httpx.AsyncClient, chat_id: str, started: asyncio.Event) -> str:
    body = message(scripted(text="Late.", rate=0))
    async with open_stream(client, "POST", send_path(chat_id), json=body) as stream:
        await stream.take(1)
        started.set()
        await stream.rest()
    return stream.events[-1].name

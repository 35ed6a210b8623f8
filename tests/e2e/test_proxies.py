"""The reverse proxies of `deploy/`, run for real in front of replicas that have an address each, as in a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import httpx
import pytest

from api.json_route import MAX_BODY_BYTES
from tests.support.deployment import Deployment, Process, http_client
from tests.support.name_server import NameServer, name_server
from tests.support.problems import assert_problem
from tests.support.proxies import HAS_ENVOY, HAS_NGINX, envoy, nginx
from tests.support.sse import open_stream, shown_text
from tests.support.stream_rules import assert_well_formed
from tests.support.tokens import Caller
from tests.support.turns import create_chat, events_path, message, scripted, send_path, turn_path, wait_for_state
from tests.support.waiting import wait_until

pytestmark = pytest.mark.skipif(not HAS_NGINX, reason="the package of nginx is one for Linux")

FIRST, SECOND = "127.0.0.2", "127.0.0.3"
PING_SECS = 5
TOKENS = 60
TEXT = "".join(f"w{i} " for i in range(TOKENS))


@pytest.fixture(scope="module")
def replica(product: Deployment) -> Iterator[Process]:
    with product.extra_api(FIRST, STREAMING__SSE_PING_INTERVAL_SECONDS=str(PING_SECS)) as api:
        yield api


@asynccontextmanager
async def proxies(names: NameServer, *, api_port: int) -> AsyncIterator[list[str]]:
    """The URLs of all proxies that can run here."""
    async with AsyncExitStack() as stack:
        urls = [await stack.enter_async_context(nginx(names, api_port=api_port))]
        if HAS_ENVOY:
            urls.append(await stack.enter_async_context(envoy(names, api_port=api_port)))
        yield urls


async def test_events_pass_as_they_come_and_silence_is_survived(replica: Process) -> None:
    async with (
        name_server(FIRST) as names,
        proxies(names, api_port=replica.port) as urls,
        asyncio.TaskGroup() as tasks,
    ):
        for url in urls:
            tasks.create_task(_check_that_nothing_is_held_back(url))


async def _check_that_nothing_is_held_back(url: str) -> None:
    """The provider says something and then nothing more: whoever waits for more bytes waits for ever."""
    async with http_client(url, headers=Caller().headers) as client:
        chat_id = await create_chat(client)
        body = message(scripted(tokens=1, terminal="hang"))
        async with open_stream(client, "POST", send_path(chat_id), json=body) as stream:
            await stream.until("delta")
            await wait_for_state(client, chat_id, body["request_id"], "running")
            async with asyncio.TaskGroup() as tasks:
                rest = tasks.create_task(stream.rest())
                await wait_until(lambda: stream.parser.comments, timeout=3 * PING_SECS)
                assert not rest.done()
                stopped = await client.post(f"{turn_path(chat_id, body['request_id'])}/cancel")
                assert stopped.is_success, stopped.text
        assert_well_formed(stream.events)
        assert stream.events[-1].data["code"] == "cancelled"


async def test_a_stream_is_resumed_through_the_proxy_when_its_replica_dies(product: Deployment) -> None:
    """The second replica has an address that the proxies did not know when they started."""
    async with AsyncExitStack() as stack:
        first = stack.enter_context(product.extra_api(FIRST))
        second = product.launch_api_at(SECOND, first.port)
        stack.callback(product.apis.remove, second)
        stack.callback(second.stop)
        product.wait_until_ready(second)
        names = await stack.enter_async_context(name_server(FIRST))
        urls = await stack.enter_async_context(proxies(names, api_port=first.port))
        all_have_begun = asyncio.Barrier(len(urls) + 1)
        async with asyncio.TaskGroup() as tasks:
            for url in urls:
                tasks.create_task(_break_and_resume(url, all_have_begun))
            await all_have_begun.wait()
            first.kill()
            names.addresses = [SECOND]


async def _break_and_resume(url: str, all_have_begun: asyncio.Barrier) -> None:
    async with http_client(url, headers=Caller().headers) as client:
        chat_id = await create_chat(client)
        body = message(scripted(tokens=TOKENS, rate=10))
        with suppress(httpx.TransportError):
            async with open_stream(client, "POST", send_path(chat_id), json=body) as stream:
                await stream.until("delta")
                await all_have_begun.wait()
                await stream.rest()
        assert not stream.events[-1].is_terminal, "the replica died with the stream"

        async def is_served_again() -> bool:
            return (await client.get(turn_path(chat_id, body["request_id"]))).is_success

        await wait_until(is_served_again, timeout=20)
        path = events_path(chat_id, body["request_id"])
        headers = {"Last-Event-ID": stream.events[-1].id}
        async with open_stream(client, "GET", path, headers=headers) as resumed:
            events = stream.events + await resumed.rest()
    assert_well_formed(events)
    assert shown_text(events) == TEXT


async def test_a_large_body_reaches_the_api(replica: Process) -> None:
    """The API has read it all before it refuses it, in its own words: no proxy has."""
    body = message("a" * (MAX_BODY_BYTES - 1024))
    async with name_server(FIRST) as names, proxies(names, api_port=replica.port) as urls:
        for url in urls:
            async with http_client(url, headers=Caller().headers) as client:
                answer = await client.post(send_path(await create_chat(client)), json=body)
                assert_problem(answer, 422, "input_too_long")

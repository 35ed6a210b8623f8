"""Many clients on one API process: each gets everything once, and the process holds few connections."""

from __future__ import annotations

import asyncio
from typing import cast

import httpx
import psutil

from tests.support.deployment import Deployment
from tests.support.sse import Event, open_stream, shown_text
from tests.support.tokens import Caller
from tests.support.turns import create_chat, events_path, message, scripted, send_path
from tests.support.waiting import wait_until

TURNS = 200
MAX_CONNECTIONS = 8


async def test_200_running_turns_need_few_valkey_connections(product: Deployment) -> None:
    """200 clients attached to 200 running turns: the process's connections to Valkey do not grow with them."""
    process = product.start_api(METRICS__API_PORT="0")
    caller = Caller()
    attached = 0
    release = asyncio.Event()

    async def ask(client: httpx.AsyncClient) -> str:
        nonlocal attached
        chat_id = await create_chat(client)
        body = message(scripted(tokens=60, rate=10))
        async with open_stream(client, "POST", send_path(chat_id), json=body) as stream:
            await stream.until("delta")
            attached += 1
            await release.wait()
            await stream.rest()
            return shown_text(stream.events)

    limits = httpx.Limits(max_connections=None)
    async with (
        httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{process.port}/mini-chat/v1", headers=caller.headers, timeout=60, limits=limits
        ) as client,
        asyncio.TaskGroup() as tasks,
    ):
        asking = [tasks.create_task(ask(client)) for _ in range(TURNS)]
        await wait_until(lambda: attached == TURNS, timeout=60)
        clients = cast("list[dict[str, str]]", product.valkey().client_list())
        connections = [row for row in clients if _belongs_to(process.popen.pid, row["addr"])]
        assert 2 <= len(connections) <= MAX_CONNECTIONS
        release.set()
    expected = "".join(f"w{i} " for i in range(60))
    assert [task.result() for task in asking] == [expected] * TURNS
    product.apis.remove(process)
    process.stop()


async def test_20_clients_of_one_turn_get_every_event_once(
    client: httpx.AsyncClient, other_replica: httpx.AsyncClient
) -> None:
    chat_id = await create_chat(client)
    body = message(scripted(tokens=50, rate=100))
    path = events_path(chat_id, body["request_id"])

    async def attach(replica: httpx.AsyncClient) -> list[Event]:
        async with open_stream(replica, "GET", path) as stream:
            return await stream.rest()

    async with open_stream(client, "POST", send_path(chat_id), json=body) as stream:
        await stream.take(3)
        async with asyncio.TaskGroup() as tasks:
            reading = [tasks.create_task(attach(client if i % 2 else other_replica)) for i in range(20)]
            await stream.rest()
    assert len(stream.events) == len({event.id for event in stream.events})
    assert all(task.result() == stream.events for task in reading)


def _belongs_to(pid: int, address: str) -> bool:
    """Whether the process holds the client's end of a connection."""
    port = int(address.rpartition(":")[2])
    return any(connection.laddr.port == port for connection in psutil.Process(pid).net_connections("tcp"))

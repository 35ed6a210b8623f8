"""An operator takes a turn from a worker that hangs."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator

import asyncpg
import httpx
import pytest

from shared.embedded.ports import PortPicker
from tests.support.commands import mini_chat
from tests.support.database import cloned_database
from tests.support.deployment import Deployment, Process, deployment
from tests.support.sse import open_stream, shown_text
from tests.support.turns import create_chat, list_messages, message, scripted, send_path
from tests.support.waiting import wait_until

LEASE_SECS = 60
"""Nothing but the operator's command can be what frees the turn."""


@pytest.fixture(scope="module")
def fleet(template_url: str, spare_valkey_url: str) -> Iterator[Deployment]:
    """A product with two workers and long leases, on databases of its own."""
    runner = asyncio.Runner()
    database = cloned_database(template_url)
    try:
        url = runner.run(database.__aenter__())
        with deployment(
            database_url=url, valkey_url=spare_valkey_url, apis=1, workers=0, TURNS__LEASE_SECS=str(LEASE_SECS)
        ) as running:
            for _ in range(2):
                port = PortPicker().pick()
                running.launch_worker(METRICS__WORKER_PORT=str(port)).port = port
            running.wait_until_ready(*running.workers)
            yield running
    finally:
        runner.run(database.__aexit__(None, None, None))
        runner.close()


async def is_fenced(worker: Process) -> bool:
    """Whether it has found a newer attempt in the place of its own."""
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(f"{worker.url}/metrics")
    return "mini_chat_turn_fenced_total 1.0" in answer.text


async def test_a_turn_of_a_worker_that_hangs_is_handed_back(fleet: Deployment) -> None:
    """Its client sees a restart and then the whole answer, once; the worker that wakes up later changes nothing."""
    database = await asyncpg.connect(fleet.database_url)
    async with fleet.client() as client:
        chat_id = await create_chat(client)
        body = message(scripted(tokens=30, rate=10))
        async with open_stream(client, "POST", send_path(chat_id), json=body) as stream:
            await stream.until("delta")
            owner: str = await database.fetchval("SELECT lease_owner FROM chat_turns")
            [hanging] = [worker for worker in fleet.workers if f":{worker.popen.pid}:" in owner]
            hanging.popen.send_signal(signal.SIGSTOP)
            [turn] = (await mini_chat("turns", "list", "--json", variables=fleet.variables)).json
            assert (turn["phase"], turn["lease_owner"]) == ("running", owner)
            handed = await mini_chat("turns", "hand-back", turn["id"], variables=fleet.variables)
            assert handed.code == 0, handed.err
            rest = await stream.rest()
            names = [event.name for event in rest]
            assert names.count("restart") == 1
            assert names[-1] == "done"
        hanging.popen.send_signal(signal.SIGCONT)
        await wait_until(lambda: is_fenced(hanging), message="the worker has not noticed that the turn is not its own")
        [_, answer] = await list_messages(client, chat_id)
        assert answer["content"] == shown_text(stream.events) == "".join(f"w{number} " for number in range(30))
    shown = await mini_chat("turns", "show", turn["id"], "--json", variables=fleet.variables)
    assert shown.json["turn"]["state"] == "completed"
    assert (shown.json["turn"]["attempt"], shown.json["turn"]["lost_attempts"]) == (3, 0)
    await database.close()

"""More turns than the workers can take: what is accepted ends, the rest is told so at once, and workers come and go."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field

import httpx
import pytest

from shared.queue.queue import QUEUE_NAME
from tests.support.database import cloned_database
from tests.support.deployment import Deployment, deployment
from tests.support.problems import assert_problem
from tests.support.sse import Event, open_stream, shown_text
from tests.support.tokens import Caller
from tests.support.turns import create_chat, list_messages, message, scripted, send_path
from tests.support.waiting import wait_until

SLOTS = 2
WAITING = 2
TOKENS = 60
LONG = scripted(tokens=TOKENS, rate=30)


@pytest.fixture(scope="module")
def small(template_url: str, spare_valkey_url: str) -> Iterator[Deployment]:
    """One worker with few slots, and few places to wait for one."""
    runner = asyncio.Runner()
    database = cloned_database(template_url)
    try:
        url = runner.run(database.__aenter__())
        with deployment(
            database_url=url,
            valkey_url=spare_valkey_url,
            apis=1,
            workers=1,
            WORKER__MAX_JOBS=str(SLOTS),
            TURNS__LEASE_SECS="60",
            LIMITS__MAX_QUEUED_TURNS=str(WAITING),
        ) as running:
            yield running
    finally:
        runner.run(database.__aexit__(None, None, None))
        runner.close()


@dataclass
class Accepted:
    """A turn whose stream is read in the background."""

    chat_id: str
    events: list[Event] = field(default_factory=list)

    @property
    def is_running(self) -> bool:
        return any(event.name == "delta" for event in self.events)


@dataclass
class Offers:
    """Sends messages one after the other, each in a chat of its own."""

    client: httpx.AsyncClient
    tasks: asyncio.TaskGroup
    accepted: list[Accepted] = field(default_factory=list)

    async def offer(self) -> None:
        """Send one more, which is to be accepted."""
        turn, has_begun = Accepted(await create_chat(self.client)), asyncio.Event()
        self.accepted.append(turn)
        self.tasks.create_task(self._read(turn, has_begun))
        await has_begun.wait()

    async def offer_in_vain(self) -> None:
        """Send one more, which is to be refused."""
        chat_id = await create_chat(self.client)
        answer = await self.client.post(send_path(chat_id), json=message(LONG))
        assert_problem(answer, 503, "queue_full")
        assert int(answer.headers["retry-after"]) >= 1
        assert await list_messages(self.client, chat_id) == []

    async def wait_until_running(self, count: int) -> None:
        await wait_until(lambda: sum(turn.is_running for turn in self.accepted) == count)

    async def _read(self, turn: Accepted, has_begun: asyncio.Event) -> None:
        async with open_stream(self.client, "POST", send_path(turn.chat_id), json=message(LONG)) as stream:
            turn.events = stream.events
            await stream.take(1)
            has_begun.set()
            await stream.rest()


async def test_three_times_what_workers_can_take(small: Deployment, caller: Caller) -> None:
    """Slots and places to wait are used and no more; a second worker brings more slots, and its end loses nothing.

    Workers are held while turns are refused, so that none of them ends meanwhile.
    """
    [first] = small.workers
    async with small.client(caller) as client, asyncio.TaskGroup() as tasks:
        offers = Offers(client, tasks)
        for _ in range(SLOTS):
            await offers.offer()
        await offers.wait_until_running(SLOTS)
        first.popen.send_signal(signal.SIGSTOP)
        for _ in range(WAITING):
            await offers.offer()
        for _ in range(2 * (SLOTS + WAITING)):
            await offers.offer_in_vain()
        assert [turn.is_running for turn in offers.accepted] == [True] * SLOTS + [False] * WAITING

        # With room to spare: its sweeper may enqueue again what it has just taken.
        second = await asyncio.to_thread(small.start_worker, WORKER__MAX_JOBS="10")
        await offers.wait_until_running(SLOTS + WAITING)
        await wait_until(lambda: small.valkey().zcard(QUEUE_NAME) == 0)
        second.popen.send_signal(signal.SIGSTOP)
        for _ in range(WAITING):
            await offers.offer()
        await offers.offer_in_vain()

        first.popen.send_signal(signal.SIGCONT)
        second.terminate()
    for turn in offers.accepted:
        assert turn.events[-1].name == "done"
        assert shown_text(turn.events) == "".join(f"w{i} " for i in range(TOKENS))
        assert len(await _stored(small, caller, turn.chat_id)) == 2


async def _stored(small: Deployment, caller: Caller, chat_id: str) -> list[dict[str, object]]:
    async with small.client(caller) as client:
        return await list_messages(client, chat_id)

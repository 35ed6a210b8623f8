"""The laws of the relay, on a real Valkey: every client gets every event exactly once, whatever happens on the way."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.events.ids import EntryId
from tests.integration.turns.relays import Client, Producer, Stage, stage
from tests.support.sse import shown_text
from tests.support.waiting import wait_until

STEPS = st.lists(st.sampled_from(["delta"] * 8 + ["attempt", "reconnect", "pause"]), max_size=60)
CUTS = st.lists(st.integers(1, 20), max_size=6)


async def produce(story: list[str], scene: Stage) -> None:
    """Write a turn, with everything that can go wrong behind the relays' backs."""
    producer, attempt = scene.producer, 1
    await producer.start()
    await producer.open_attempt(attempt)
    for index, step in enumerate(story):
        match step:
            case "delta":
                await producer.delta(f"<{index}>")
            case "attempt":
                attempt += 1
                await producer.open_attempt(attempt)
            case "reconnect":
                await scene.replicas[index % 2].live.drop_connection()
            case _:
                await asyncio.sleep(0.002)
    await producer.done()


async def come_and_go(client: Client, cuts: list[int], scene: Stage) -> None:
    """Read a turn through connections that break after so many events, each on the other replica."""
    for index, cut in enumerate(cuts):
        if client.has_ended:
            return
        await client.read(scene.replicas[index % 2], leave_after=cut)
    if not client.has_ended:
        await client.read(scene.replicas[len(cuts) % 2])


def assert_exactly_once(client: Client, producer: Producer) -> None:
    """Nothing missing, nothing twice, nothing out of order."""
    events = [event for event in client.events if event.name != "ping"]
    assert events[-1].name == "done"
    assert shown_text(events) == producer.text
    positions = [EntryId.parse(event.id) for event in events]
    assert positions == sorted(set(positions)), "ids must grow strictly"
    assert [event.name for event in events].count("stream_started") == 1


@pytest.mark.parametrize("is_fast", [True, False])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    story=STEPS, cuts=st.lists(CUTS, min_size=1, max_size=3), loss=st.sampled_from([0.0, 0.2, 1.0]), seed=st.integers()
)
def test_every_event_exactly_once(
    valkey_url: str, is_fast: bool, story: list[str], cuts: list[list[int]], loss: float, seed: int
) -> None:
    """Clients come and go between two replicas while announcements are lost and subscribers reconnect."""

    async def run() -> None:
        async with stage(valkey_url, is_fast=is_fast, loss=loss, seed=seed) as scene, asyncio.timeout(30):
            clients = [scene.client() for _ in cuts]
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(produce(story, scene))
                for client, own_cuts in zip(clients, cuts, strict=True):
                    tasks.create_task(come_and_go(client, own_cuts, scene))
            for client in clients:
                assert_exactly_once(client, scene.producer)

    asyncio.run(run())


@pytest.mark.parametrize("is_fast", [True, False])
async def test_resume_after_every_prefix(valkey_url: str, is_fast: bool) -> None:
    """After event k of n a client gets exactly the events k+1 to n, on another replica, of an ended turn."""
    async with stage(valkey_url, is_fast=is_fast) as scene:
        await produce(["delta"] * 9 + ["attempt"] + ["delta"] * 40 + ["attempt", "attempt", "delta"], scene)
        whole = scene.client()
        await whole.read(scene.replicas[0])
        assert_exactly_once(whole, scene.producer)
        for position, event in enumerate(whole.events[:-1], start=1):
            rest = scene.client()
            await rest.read(scene.replicas[1], cursor=event.id)
            assert rest.events == whole.events[position:]


@pytest.mark.parametrize("is_fast", [True, False])
async def test_resume_after_every_prefix_while_it_runs(valkey_url: str, is_fast: bool) -> None:
    """The same of a turn that runs: clients attach at every event there has been, and all see the same."""
    async with stage(valkey_url, is_fast=is_fast) as scene, asyncio.timeout(30):
        producer = scene.producer
        await producer.start()
        first = scene.client()
        late: list[tuple[int, Client]] = []
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(first.read(scene.replicas[0]))
            await producer.open_attempt(1)
            for index in range(25):
                await producer.delta(f"<{index}>")
                await wait_until(lambda: len(first.events) >= index + 2)  # noqa: B023 (awaited in this round)
                for position in (0, index // 2, index):
                    client = scene.client()
                    late.append((position + 1, client))
                    tasks.create_task(client.read(scene.replicas[1], cursor=first.events[position].id))
            await producer.done()
        for position, client in late:
            assert client.events == first.events[position:]


async def test_an_announced_entry_needs_no_read(valkey_url: str) -> None:
    """On the fast path entries are forwarded as announced: the log is read at the start and not again."""
    async with stage(valkey_url) as scene, asyncio.timeout(20):
        producer, client = scene.producer, scene.client()
        await producer.start()
        reads = await _count_reads(producer)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(client.read(scene.replicas[0]))
            await wait_until(lambda: client.events)
            await producer.open_attempt(1)
            for index in range(200):
                await producer.delta(str(index))
                if index % 8 == 0:
                    await wait_until(lambda: len(client.events) >= index + 2)  # noqa: B023 (awaited in this round)
            await producer.done()
        assert_exactly_once(client, producer)
        assert await _count_reads(producer) - reads <= 3


async def test_a_lost_log_is_read_from_the_start(valkey_url: str) -> None:
    """When the server has lost what a client has, the client starts over with what there is."""
    async with stage(valkey_url) as scene, asyncio.timeout(20):
        producer, client = scene.producer, scene.client()
        await producer.start()
        await producer.open_attempt(1)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(client.read(scene.replicas[0]))
            await producer.delta("gone")
            await wait_until(lambda: shown_text(client.events) == "gone")
            await producer.valkey.delete(producer.keys.events)
            await producer.open_attempt(2)
            await producer.delta("here")
            await producer.done()
        assert shown_text(client.events) == "here"
        names = [event.name for event in client.events]
        assert names[names.index("delta") + 1] in ("stream_started", "restart")


async def test_a_slow_reader_gets_pages_and_holds_nothing_up(valkey_url: str) -> None:
    """A reader whose connection blocks reads the log at its own speed later on, and no other waits for it."""
    async with stage(valkey_url) as scene, asyncio.timeout(30):
        producer = scene.producer
        slow, quick = scene.client(), scene.client()
        slow.unblocked = asyncio.Event()
        await producer.start()
        await producer.open_attempt(1)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(quick.read(scene.replicas[0]))
            tasks.create_task(slow.read(scene.replicas[0]))
            for index in range(500):
                await producer.delta(f"<{index}>")
            await wait_until(lambda: len(quick.events) == 501)
            assert not slow.events
            slow.unblocked.set()
            await producer.done()
        assert_exactly_once(slow, producer)
        assert_exactly_once(quick, producer)


async def _count_reads(producer: Producer) -> int:
    statistics = await producer.valkey.info("commandstats")
    return int(statistics.get("cmdstat_xrange", {}).get("calls", 0))

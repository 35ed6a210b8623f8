"""The queue on a real Valkey: what waits is found at once, by any worker, whatever else runs or was left behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from shared.ids import new_uuid4
from shared.queue.jobs import RUN_TURN, RunTurn
from shared.queue.queue import QUEUE_NAME, JobQueue
from shared.settings import RedisSettings, Settings
from shared.tasks import BackgroundTasks
from shared.valkey.client import Valkey, open_valkey
from shared.valkey.keyspace import QUEUE_RUNNING, QUEUE_WAKE
from tests.support.waiting import wait_until
from worker.job_loop import JobLoop

IN_PROGRESS_MS = 60_000


@pytest.fixture
async def valkey(valkey_url: str) -> AsyncIterator[Valkey]:
    async with open_valkey(RedisSettings.model_validate({"url": valkey_url})) as client:
        await client.flushdb()
        yield client


@pytest.fixture
def queue(valkey: Valkey) -> JobQueue:
    return JobQueue(valkey, Settings())


def a_job(attempt: int = 1) -> RunTurn:
    return RunTurn(new_uuid4(), attempt)


@dataclass
class Worker:
    """A job loop whose jobs are held open until they are released."""

    ran: list[str] = field(default_factory=list)
    release: asyncio.Event = field(default_factory=asyncio.Event)

    async def run_turn(self, _ctx: dict[str, Any], *, turn_id: str, attempt: int, **_: Any) -> None:
        self.ran.append(f"{turn_id}:{attempt}")
        await self.release.wait()


@asynccontextmanager
async def working(valkey_url: str, *, max_jobs: int = 256) -> AsyncIterator[Worker]:
    settings = Settings.model_validate(
        {"redis": {"url": valkey_url}, "worker": {"max_jobs": max_jobs, "poll_delay_ms": 5_000}}
    )
    worker, tasks = Worker(), BackgroundTasks()
    async with open_valkey(settings.redis) as valkey, open_valkey(settings.redis) as wake:
        loop = JobLoop(
            {RUN_TURN: worker.run_turn},
            wake_valkey=wake,
            queue=JobQueue(valkey, settings),
            settings=settings,
            ctx={},
        )
        running = tasks.spawn(loop.main(), name="job loop")
        try:
            yield worker
        finally:
            worker.release.set()
            await wait_until(lambda: not loop.tasks)
            running.cancel()
            await tasks.aclose()


async def test_a_job_waits_once(queue: JobQueue, valkey: Valkey) -> None:
    job = a_job()
    assert await queue.enqueue(job)
    assert not await queue.enqueue(job)
    assert await queue.pick(at_most=10, in_progress_ms=IN_PROGRESS_MS) != []
    assert await queue.pick(at_most=10, in_progress_ms=IN_PROGRESS_MS) == []


async def test_jobs_are_picked_oldest_first(queue: JobQueue) -> None:
    jobs = [a_job() for _ in range(5)]
    for job in jobs:
        await queue.enqueue(job)
        await asyncio.sleep(0.002)  # scores are milliseconds
    picked = [job.job_id for job in await queue.pick(at_most=10, in_progress_ms=IN_PROGRESS_MS)]
    assert picked == [job.job_id for job in jobs]


async def test_running_jobs_do_not_hide_waiting_ones(queue: JobQueue, valkey: Valkey) -> None:
    """However many run on one worker, the next job is the first thing that another worker reads."""
    for _ in range(600):
        await queue.enqueue(a_job())
    assert len(await queue.pick(at_most=600, in_progress_ms=IN_PROGRESS_MS)) == 600
    fresh = a_job()
    await queue.enqueue(fresh)
    assert [job.job_id for job in await queue.pick(at_most=1, in_progress_ms=IN_PROGRESS_MS)] == [fresh.job_id]


async def test_no_key_outlives_its_jobs(queue: JobQueue, valkey: Valkey) -> None:
    """Queue keys exist only while they are not empty; all others expire."""
    job = a_job()
    await queue.enqueue(job)
    for key in await valkey.keys("arq:job:*"):
        assert await valkey.ttl(key) > 0
    [picked] = await queue.pick(at_most=1, in_progress_ms=IN_PROGRESS_MS)
    assert picked.read() == (RUN_TURN, job.to_kwargs())
    await queue.finish(picked.job_id)
    assert await valkey.keys("*") == [QUEUE_WAKE.encode()]


async def test_a_burst_leaves_few_wake_tokens(valkey: Valkey) -> None:
    settings = Settings.model_validate({"worker": {"max_jobs": 10}})
    queue = JobQueue(valkey, settings)
    for _ in range(50):
        await queue.enqueue(a_job())
    assert len(await valkey.keys(QUEUE_WAKE)) == 1
    assert await valkey.lrange(QUEUE_WAKE, 0, -1) == [b"1"] * 10  # type: ignore[misc]


async def test_an_idle_worker_is_woken(valkey_url: str, valkey: Valkey, queue: JobQueue) -> None:
    """It starts a job long before its next poll, which is five seconds away."""
    async with working(valkey_url) as worker:
        await asyncio.sleep(0.2)  # past the first poll, so that only a wake-up can explain the start
        began = asyncio.get_running_loop().time()
        await queue.enqueue(a_job())
        await wait_until(lambda: worker.ran, timeout=4)
        assert asyncio.get_running_loop().time() - began < 2


async def test_a_full_worker_leaves_jobs_and_wake_ups_to_others(
    valkey_url: str, valkey: Valkey, queue: JobQueue
) -> None:
    async with working(valkey_url, max_jobs=2) as full:
        for _ in range(2):
            await queue.enqueue(a_job())
        await wait_until(lambda: len(full.ran) == 2)
        async with working(valkey_url) as idle:
            jobs = [a_job() for _ in range(20)]
            for job in jobs:
                await queue.enqueue(job)
            await wait_until(lambda: len(idle.ran) == 20, timeout=4)
        assert len(full.ran) == 2


async def test_a_worker_survives_the_loss_of_valkey_s_data(valkey_url: str, valkey: Valkey, queue: JobQueue) -> None:
    """Jobs run on, and new ones are found."""
    async with working(valkey_url) as worker:
        await queue.enqueue(a_job())
        await wait_until(lambda: worker.ran)
        await valkey.flushall()
        await valkey.script_flush()
        await queue.enqueue(a_job())
        await wait_until(lambda: len(worker.ran) == 2)


async def test_an_abort_of_an_unknown_job_does_not_kill_the_next_one_of_that_id(
    valkey_url: str, valkey: Valkey, queue: JobQueue
) -> None:
    """What arq notes for an abort stays until a job of that id comes; it must not be its end."""
    job = a_job()
    await valkey.zadd("arq:abort", {job.job_id: 4_102_444_800_000})
    await queue.enqueue(job)
    async with working(valkey_url) as worker:
        await wait_until(lambda: worker.ran == [job.job_id])


async def test_a_job_that_a_dead_worker_has_taken_can_be_enqueued_again(
    valkey_url: str, valkey: Valkey, queue: JobQueue
) -> None:
    """Its in-progress key would stand in the way for an hour."""
    job = a_job()
    await queue.enqueue(job)
    await queue.pick(at_most=1, in_progress_ms=IN_PROGRESS_MS)
    assert await queue.enqueue(job)
    assert await valkey.zcard(QUEUE_NAME) == 1
    assert await valkey.exists(QUEUE_RUNNING, f"arq:in-progress:{job.job_id}") == 0
    async with working(valkey_url) as worker:
        await wait_until(lambda: worker.ran == [job.job_id])


async def test_a_job_enqueued_again_while_it_runs_does_not_run_twice(
    valkey_url: str, valkey: Valkey, queue: JobQueue
) -> None:
    """A sweep may be late with what it has read; the worker keeps sight of the one job that runs."""
    job = a_job()
    async with working(valkey_url) as worker:
        await queue.enqueue(job)
        await wait_until(lambda: worker.ran)
        await queue.enqueue(job)
        await queue.enqueue(a_job())
        await wait_until(lambda: len(worker.ran) == 2)
    assert worker.ran.count(job.job_id) == 1

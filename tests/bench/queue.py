"""How long a job waits for its worker, beside arq's worker and its own enqueueing as they come.

From the moment before it is enqueued to the first line of its function, on one clock. Jobs are enqueued one at a time
at uneven moments, unless they are a burst. Runs of the two alternate.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import redis
from arq.connections import ArqRedis

from shared.ids import new_uuid4
from shared.queue.jobs import RunTurn
from shared.queue.queue import JobQueue
from shared.settings import Settings
from shared.valkey.client import open_valkey
from tests.bench.measure import Repeats, report
from tests.bench.queue_worker import MAX_JOBS
from tests.bench.relay_targets import Helper
from tests.support.engines import TestEngines
from tests.support.waiting import wait_until

NAMES = {"ours": "mini-chat", "arq": "arq, defaults"}
PROBES = 60
PROBES_PER_SECOND = 25
IDLE_SECS = 3.0
BURST = 2_000
FOR_EVER = 3_600.0


@dataclass(frozen=True)
class Case:
    """Jobs that run already while probes are enqueued: on the worker that is measured, and on another one."""

    name: str
    here: int = 0
    elsewhere: int = 0


CASES = (
    Case("idle worker"),
    Case("100 running on it", here=100),
    Case("1 000 running on it", here=1_000),
    Case("1 000 running on another", elsewhere=1_000),
)


class Bench:
    """Enqueues for one kind of worker; its queue is empty at the start and at the end."""

    def __init__(self, kind: str, url: str, queue: JobQueue, arq: ArqRedis, valkey: redis.Redis) -> None:
        self.kind = kind
        self._url = url
        self._queue = queue
        self._arq = arq
        self._valkey = valkey

    async def enqueue(self, secs: float = 0.0) -> None:
        if self.kind == "ours":
            await self._queue.enqueue(RunTurn(new_uuid4(), 1, traceparent=f"{time.time_ns()} {secs}"))
        else:
            await self._arq.enqueue_job("job", time.time_ns(), secs)

    @asynccontextmanager
    async def worker(self, *, running: int = 0) -> AsyncIterator[Helper]:
        """A worker process that runs so many jobs which do not end."""
        helper = Helper("tests.bench.queue_worker")
        try:
            await helper.ask("start", kind=self.kind, redis_url=self._url)
            for _ in range(running):
                await self.enqueue(FOR_EVER)
            await _until_started(helper, running)
            await helper.ask("waits")
            yield helper
        finally:
            helper.stop()

    def clear(self) -> None:
        self._valkey.flushdb()

    def commands(self) -> int:
        info: Any = self._valkey.info("stats")
        return int(info["total_commands_processed"])


async def _until_started(helper: Helper, count: int) -> None:
    async def have_started() -> bool:
        return bool((await helper.ask("started"))["started"] >= count)

    await wait_until(have_started, timeout=120, interval=0.05)


async def bench(*, repeats: int, quick: bool) -> None:
    with TestEngines() as engines:
        settings = Settings.model_validate({"redis": {"url": engines.redis_url}, "worker": {"max_jobs": MAX_JOBS}})
        valkey = redis.Redis.from_url(engines.redis_url)
        arq = ArqRedis.from_url(engines.redis_url)
        async with open_valkey(settings.redis) as ours:
            queue = JobQueue(ours, settings)
            kinds = [Bench(kind, engines.redis_url, queue, arq, valkey) for kind in NAMES]
            await _bench_waits(kinds, repeats=repeats, probes=20 if quick else PROBES)
            await _bench_idle(kinds)
            await _bench_burst(kinds, repeats=repeats)
        await arq.aclose()
        valkey.close()


async def _bench_waits(kinds: list[Bench], *, repeats: int, probes: int) -> None:
    found: dict[tuple[str, str], list[dict[str, float]]] = defaultdict(list)
    for _ in range(repeats):
        for case in CASES:
            for kind in kinds:
                found[case.name, kind.kind].append(await _measure(kind, case, probes=probes))
    report(
        "queue",
        f"Enqueued to started: median (range) of {repeats} repeats of {probes} jobs",
        [
            {
                "case": case,
                "queue": NAMES[kind],
                "p50 ms": Repeats(tuple(sample["p50"] for sample in samples)),
                "p99 ms": Repeats(tuple(sample["p99"] for sample in samples)),
                "worker CPU %": Repeats(tuple(sample["cpu"] for sample in samples)),
            }
            for (case, kind), samples in found.items()
        ],
    )


async def _measure(kind: Bench, case: Case, *, probes: int) -> dict[str, float]:
    dice = random.Random(4)
    async with kind.worker(running=case.elsewhere or case.here) as first:
        if not case.elsewhere:
            return await _probe(kind, first, dice, probes)
        # The first one goes on running what it has, and takes its share of the probes like any other.
        async with kind.worker() as second:
            await asyncio.sleep(1.0)
            return await _probe(kind, second, dice, probes, others=[first])


async def _probe(
    kind: Bench, worker: Helper, dice: random.Random, probes: int, others: list[Helper] | None = None
) -> dict[str, float]:
    workers = [worker, *(others or [])]
    began, before = time.monotonic(), (await worker.ask("cpu"))["secs"]
    for _ in range(probes):
        await asyncio.sleep(dice.uniform(0.5, 1.5) / PROBES_PER_SECOND)
        await kind.enqueue()
    await wait_until(lambda: _all_started(workers, probes), timeout=120, interval=0.05)
    cpu = ((await worker.ask("cpu"))["secs"] - before) / (time.monotonic() - began) * 100
    waits = [await one.ask("waits") for one in workers]
    kind.clear()
    # The slower of two workers is what a client may meet.
    return {"p50": max(wait["p50"] for wait in waits), "p99": max(wait["p99"] for wait in waits), "cpu": cpu}


async def _all_started(workers: list[Helper], count: int) -> bool:
    started = [int((await worker.ask("started"))["started"]) for worker in workers]
    return sum(started) >= count


async def _bench_idle(kinds: list[Bench]) -> None:
    rows = []
    for kind in kinds:
        async with kind.worker() as worker:
            await asyncio.sleep(1.0)
            commands, cpu = kind.commands(), (await worker.ask("cpu"))["secs"]
            await asyncio.sleep(IDLE_SECS)
            rows.append(
                {
                    "queue": NAMES[kind.kind],
                    "idle CPU %": round(((await worker.ask("cpu"))["secs"] - cpu) / IDLE_SECS * 100, 2),
                    "commands/s": round((kind.commands() - commands - 1) / IDLE_SECS, 1),
                }
            )
        kind.clear()
    report("queue_idle", "A worker with nothing to do", rows)


async def _bench_burst(kinds: list[Bench], *, repeats: int) -> None:
    found: dict[str, list[dict[str, float]]] = defaultdict(list)
    for _ in range(repeats):
        for kind in kinds:
            async with kind.worker() as worker:
                await asyncio.sleep(0.5)
                began = time.monotonic()
                for _ in range(BURST):
                    await kind.enqueue()
                enqueued = time.monotonic() - began
                await _until_started(worker, BURST)
                found[kind.kind].append(
                    {**await worker.ask("waits"), "enqueued": enqueued, "all": time.monotonic() - began}
                )
            kind.clear()
    report(
        "queue_burst",
        f"A burst of {BURST} jobs on one worker",
        [
            {
                "queue": NAMES[kind],
                "enqueued in s": Repeats(tuple(sample["enqueued"] for sample in samples)),
                "all started after s": Repeats(tuple(sample["all"] for sample in samples)),
                "p50 ms": Repeats(tuple(sample["p50"] for sample in samples)),
                "p99 ms": Repeats(tuple(sample["p99"] for sample in samples)),
            }
            for kind, samples in found.items()
        ],
    )

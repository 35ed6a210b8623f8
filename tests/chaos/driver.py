"""One run of chaos: the whole product, clients, a seeded schedule of faults, and a verdict."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass

from shared.db.migrate import migrate
from shared.embedded.ports import LOOPBACK
from shared.settings import DatabaseSettings, Settings
from tests.chaos.balancer import Balancer
from tests.chaos.clients import Client, Told
from tests.chaos.faults import Chaos, schedule
from tests.chaos.oracle import Verdict, judge
from tests.support.api import BASE
from tests.support.deployment import Deployment, deployment
from tests.support.engines import TestEngines
from tests.support.waiting import wait_until

LEASE_SECS = 3


@dataclass
class Report:
    seed: int
    turns: int
    verdict: Verdict
    faults: Counter[str]
    restarts: Counter[str]
    """Shown to clients, by reason."""
    reconnects: int
    recoveries: list[float]
    """Seconds from the kill of a worker to the `restart` that its clients saw."""

    def __str__(self) -> str:
        recoveries = sorted(self.recoveries) or [0.0]

        def at(share: float) -> str:
            return f"{recoveries[min(len(recoveries) - 1, int(share * len(recoveries)))]:.1f} s"

        lines = [
            f"seed {self.seed}: {self.turns} turns, {self.faults.total()} faults, {len(self.verdict.complaints)} wrong",
            f"  faults:    {_told(self.faults)}",
            f"  outcomes:  {_told(self.verdict.outcomes)}",
            f"  clients:   {self.reconnects} reconnects, restarts shown: {_told(self.restarts) or 'none'}",
            f"  kill of a worker to restart ({len(self.recoveries)}): p50 {at(0.5)}, p95 {at(0.95)}, max {at(1)}",
        ]
        return "\n".join(lines)


def _told(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))


async def run_chaos(*, seed: int, turns: int, clients: int, faults: int) -> Report:
    """Start everything, let it suffer, and judge. The seed determines the schedule and what clients do."""
    with TestEngines(persistence=seed % 2 == 0) as engines:
        database = DatabaseSettings.model_validate({"url": engines.database_url})
        await asyncio.to_thread(migrate, Settings(database=database))
        with deployment(
            database_url=engines.database_url,
            valkey_url=engines.redis_url,
            apis=2,
            workers=3,
            TURNS__LEASE_SECS=str(LEASE_SECS),
            TURNS__MAX_ATTEMPTS="10",
            STREAMING__SSE_PING_INTERVAL_SECONDS="5",
            provider_timeouts={"connect": 2, "first_event": 4, "idle": 4, "total": 60},
        ) as product:
            return await _run(product, engines, seed=seed, turns=turns, clients=clients, faults=faults)


async def _run(
    product: Deployment, engines: TestEngines, *, seed: int, turns: int, clients: int, faults: int
) -> Report:
    randomness = random.Random(seed)
    balancer = Balancer(lambda: [api.port for api in product.apis], random.Random(seed))
    chaos = Chaos(product, engines, balancer, random.Random(seed))
    async with balancer.serving():
        base_url = f"http://{LOOPBACK}:{balancer.port}{BASE}"
        crowd = [Client(base_url, random.Random(randomness.random())) for _ in range(clients)]
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(chaos.run(schedule(seed, count=faults)))
            for index, client in enumerate(crowd):
                tasks.create_task(client.live(turns // clients + (index < turns % clients)))
        for client in crowd:
            await client.aclose()
    told = [turn for client in crowd for turn in client.told]
    await _wait_until_quiet(product)
    verdict = await judge(product, told)
    restarts = Counter(event.data["reason"] for turn in told for event in turn.events if event.name == "restart")
    return Report(
        seed=seed,
        turns=len(told),
        verdict=verdict,
        faults=chaos.done,
        restarts=restarts,
        reconnects=sum(turn.connections - 1 for turn in told),
        recoveries=_recoveries(told, chaos.worker_kills),
    )


async def _wait_until_quiet(product: Deployment) -> None:
    """Jobs of turns that have ended leave the queue."""
    valkey = product.valkey()
    await wait_until(lambda: not valkey.exists("arq:queue"), timeout=20, message="jobs remain in the queue")


def _recoveries(turns: list[Told], kills: list[float]) -> list[float]:
    """A restart belongs to the first kill after the turn's last sign of life, if there was one."""
    found = []
    for turn in turns:
        alive = 0.0
        for event, at in zip(turn.events, turn.times, strict=True):
            if event.name == "restart" and event.data["reason"] == "worker_lost":
                found += [at - kill for kill in kills if alive <= kill < at][:1]
            alive = at
    return found

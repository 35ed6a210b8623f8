"""What goes wrong, and when: a schedule that a seed determines, and the hands that carry it out."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.balancer import Balancer
from tests.support.deployment import Deployment, Process
from tests.support.engines import TestEngines

WEIGHTS = {
    "kill worker": 5,
    "pause worker": 3,
    "drain worker": 3,
    "kill api": 3,
    "drain api": 2,
    "flush valkey": 2,
    "kill valkey": 2,
    "lose log tails": 3,
    "kill postgresql": 2,
    "cut sockets": 5,
    "half-open sockets": 2,
}


@dataclass(frozen=True)
class Fault:
    name: str
    wait_secs: float
    """After the fault before it."""
    choice: int
    """Which process, by position."""
    length_secs: float
    """Of a pause or an outage."""


def schedule(seed: int, *, count: int) -> list[Fault]:
    """The same faults, at the same distances, for the same seed."""
    randomness = random.Random(seed)
    names, weights = list(WEIGHTS), list(WEIGHTS.values())
    return [
        Fault(
            randomness.choices(names, weights)[0],
            randomness.uniform(0.3, 2.0),
            randomness.randrange(1_000),
            randomness.uniform(0.2, 5.0),
        )
        for _ in range(count)
    ]


@dataclass
class Chaos:
    """Carries faults out on a running product. Whatever it takes away, it gives back."""

    product: Deployment
    engines: TestEngines
    balancer: Balancer
    randomness: random.Random
    done: Counter[str] = field(default_factory=Counter)
    worker_kills: list[float] = field(default_factory=list)

    async def run(self, faults: list[Fault]) -> None:
        for fault in faults:
            await asyncio.sleep(fault.wait_secs)
            await self._inflict(fault)
            self.done[fault.name] += 1

    async def _inflict(self, fault: Fault) -> None:
        match fault.name:
            case "kill worker":
                worker = self._pick(self.product.workers, fault)
                self.worker_kills.append(time.monotonic())
                worker.kill()
                await self._replace(self.product.workers, worker, self.product.start_worker)
            case "pause worker":
                worker = self._pick(self.product.workers, fault)
                worker.popen.send_signal(signal.SIGSTOP)
                await asyncio.sleep(fault.length_secs)
                worker.popen.send_signal(signal.SIGCONT)
            case "drain worker":
                worker = self._pick(self.product.workers, fault)
                worker.terminate()
                await asyncio.to_thread(worker.stop)
                await self._replace(self.product.workers, worker, self.product.start_worker)
            case "kill api":
                api = self._pick(self.product.apis, fault)
                api.kill()
                await self._replace(self.product.apis, api, self.product.start_api)
            case "drain api":
                api = self._pick(self.product.apis, fault)
                api.terminate()
                await asyncio.to_thread(api.stop)
                await self._replace(self.product.apis, api, self.product.start_api)
            case "flush valkey":
                await asyncio.to_thread(self.product.valkey().flushall)
            case "kill valkey":
                await asyncio.to_thread(self.engines.valkey.kill)
                await asyncio.sleep(fault.length_secs / 5)
                await asyncio.to_thread(self.engines.valkey.start)
            case "lose log tails":
                await asyncio.to_thread(self._lose_tails)
            case "kill postgresql":
                await asyncio.to_thread(self.engines.postgres.kill)
                await asyncio.sleep(fault.length_secs / 5)
                await asyncio.to_thread(self.engines.postgres.start)
            case "cut sockets":
                self.balancer.cut(share=0.5)
            case "half-open sockets":
                self.balancer.half_open(share=0.3)

    def _pick(self, processes: list[Process], fault: Fault) -> Process:
        return processes[fault.choice % len(processes)]

    async def _replace(self, processes: list[Process], dead: Process, start: Any) -> None:
        processes.remove(dead)
        await asyncio.to_thread(start)

    def _lose_tails(self) -> None:
        """Act out what a server does that had not written its last second to disk."""
        valkey = self.product.valkey()
        for key in valkey.scan_iter("mc:{*}:events"):
            newest: Any = valkey.xrevrange(key, count=self.randomness.randint(1, 5))
            if newest and newest[0][1][b"e"] not in (b"done", b"error"):
                valkey.xdel(key, *(entry[0] for entry in newest))

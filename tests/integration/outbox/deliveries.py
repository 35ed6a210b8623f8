"""Delivery with a handler that does as it is told and remembers."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count

from shared.db.engine import Sessions
from shared.metrics import Metrics
from shared.outbox.repository import Message
from shared.settings import OutboxSettings
from shared.tasks import BackgroundTasks
from worker.outbox.delivery import Delivery

FAST = OutboxSettings(poll_interval_ms=20, backoff_base_secs=0.01, backoff_max_secs=0.05)

_names = count(1)


async def _do_nothing(message: Message) -> None:
    await asyncio.sleep(0)


@dataclass
class Recorder:
    """A handler. Every try is noted, and two at once for one key are found out."""

    queue: str = "test"
    max_attempts: int = 3
    act: Callable[[Message], Awaitable[None]] = _do_nothing
    tries: list[Message] = field(default_factory=list)
    done: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    overlaps: int = 0
    _running: set[str] = field(default_factory=set)

    @property
    def tried(self) -> list[str]:
        return [message.payload["name"] for message in self.tries]

    async def handle(self, message: Message) -> None:
        self.tries.append(message)
        if message.partition_key in self._running:
            self.overlaps += 1
        self._running.add(message.partition_key)
        try:
            await self.act(message)
        finally:
            self._running.discard(message.partition_key)
        self.done[message.partition_key].append(message.payload["name"])


def delivery(
    sessions: Sessions, *handlers: Recorder, settings: OutboxSettings = FAST, metrics: Metrics | None = None
) -> Delivery:
    return Delivery(
        settings=settings,
        sessions=sessions,
        metrics=metrics or Metrics("test"),
        owner=f"worker-{next(_names)}",
        handlers=handlers,
    )


@asynccontextmanager
async def running(*deliveries: Delivery) -> AsyncIterator[None]:
    tasks = BackgroundTasks()
    for each in deliveries:
        tasks.spawn(each.run(), name="delivery")
    try:
        yield
    finally:
        await tasks.aclose()

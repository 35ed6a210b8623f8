"""Delivers the outbox: at least once, in order per key, one message of a key at a time in the whole fleet.

`outbox.partitions` tasks per process claim messages, each from its share of the keys, and run a lane for every key that
they got. What a handler raises has the message tried again later, which holds its followers back; when its attempts are
used up, or the handler rejects it, it becomes a dead letter, which frees them. A queue that nobody has registered is
left alone: a newer release may run beside this one.

A commit in this process can `wake()` the tasks; all else is found by polling. While the database is away nothing is
claimed, and what is under way runs on until its lease ends.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from itertools import count
from typing import Final

from shared.db.engine import Sessions, single_statement
from shared.logs import log_fields
from shared.metrics import Metrics
from shared.outbox.repository import Claim, Held, Message, OutboxRepository, Retry, slots_of
from shared.outbox.retries import retry_delay
from shared.periodic import every
from shared.settings import OutboxSettings
from shared.tasks import BackgroundTasks
from worker.outbox.handlers import Handler, RejectedMessageError
from worker.outbox.lanes import Lane, LeaseLostError, lanes_of, renew_leases
from worker.outbox.settlement import Dead, Delivered, Settlement, Settler

logger = logging.getLogger(__name__)

MOST_HELD: Final = 64
"""Messages of one queue that one task holds at a time."""
MOST_AT_ONCE: Final = 16
"""Handlers of one queue that one task runs at a time."""
LONGEST_RUN: Final = 16
"""Messages of one key in one claim: enough to share its cost, few enough that other keys get their turn."""
GATHER_SECS: Final = 0.25
"""Between a wake-up and the claim: what is committed meanwhile shares its cost."""
CONTENDED_SECS: Final = 0.02
AWAY_SECS: Final = 1.0
GRACE_SECS: Final = 2.0
"""How long deliveries under way may take to end when the process does."""


class Delivery:
    """All delivery of one process.

    Args:
        owner: the name of this process in the fleet.
    """

    def __init__(
        self, *, settings: OutboxSettings, sessions: Sessions, metrics: Metrics, owner: str, handlers: Sequence[Handler]
    ) -> None:
        self._settings = settings
        self._sessions = sessions
        self._metrics = metrics
        self._owner = owner
        self._handlers = {handler.queue: handler for handler in handlers}
        self._lease = timedelta(seconds=settings.lease_secs)
        self._claims = count(1)
        self._lanes: dict[Lane, asyncio.Task[None]] = {}
        self._is_ending = False
        self._settler = Settler(sessions)
        self._partitions = [
            _Partition(slots_of(number, partitions=settings.partitions), self._handlers)
            for number in range(settings.partitions)
        ]

    def wake(self) -> None:
        """There may be something to deliver."""
        for partition in self._partitions:
            partition.has_news = True
            partition.wake.set()

    async def run(self) -> None:
        """Deliver until cancelled; then let what is under way end for a moment, and leave the rest to others."""
        lanes, helpers = BackgroundTasks(), BackgroundTasks()
        helpers.spawn(self._settler.run(), name="outbox settlement")
        helpers.spawn(every(self._lease / 3, self._renew, name="outbox leases"), name="outbox leases")
        try:
            async with asyncio.TaskGroup() as tasks:
                for partition in self._partitions:
                    tasks.create_task(self._serve(partition, lanes))
        finally:
            self._is_ending = True
            try:
                if self._lanes:
                    await asyncio.wait(self._lanes.values(), timeout=GRACE_SECS)
                await lanes.aclose()
            finally:
                await helpers.aclose()

    async def _renew(self) -> None:
        await renew_leases(self._sessions, list(self._lanes), lease=self._lease)

    async def _serve(self, partition: _Partition, lanes: BackgroundTasks) -> None:
        while True:
            partition.wake.clear()
            pause = self._settings.poll_interval_ms / 1_000
            quotas = partition.quotas()
            if quotas:
                try:
                    claim = await self._claim(partition, quotas, lanes)
                except Exception as error:
                    logger.warning("the outbox cannot be read, will try again: %r", error)
                    pause = AWAY_SECS
                else:
                    pause = CONTENDED_SECS if claim.was_contended else pause
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await partition.wake.wait()
                    if partition.has_news:
                        await asyncio.sleep(GATHER_SECS)
            partition.has_news = False

    async def _claim(self, partition: _Partition, quotas: dict[str, int], lanes: BackgroundTasks) -> Claim:
        token = f"{self._owner}/{next(self._claims)}"
        async with single_statement(self._sessions) as session:
            if not await OutboxRepository(session).is_any_due(partition.slots, list(quotas)):
                return Claim((), was_contended=False)
        until = asyncio.get_running_loop().time() + self._lease.total_seconds()
        async with self._sessions.begin() as session:
            claim = await OutboxRepository(session).claim(
                partition.slots, quotas, run=LONGEST_RUN, token=token, lease=self._lease
            )
        for lane in lanes_of(claim.messages, token=token, until=until):
            partition.held[lane.messages[0].queue] += len(lane.messages)
            self._lanes[lane] = lanes.spawn(self._run_lane(lane, partition), name="outbox delivery")
        return claim

    async def _run_lane(self, lane: Lane, partition: _Partition) -> None:
        queue = lane.messages[0].queue
        try:
            async with lane.scope:
                lane.is_running = True
                while lane.messages and not self._is_ending and await self._deliver_first(lane, partition):
                    lane.messages.popleft()
                    partition.held[queue] -= 1
                lane.is_running = False
        except (TimeoutError, LeaseLostError):
            logger.warning("the lease of an outbox message was lost", extra={"queue": queue})
        finally:
            lane.is_running = False
            left = lane.held
            partition.held[queue] -= len(lane.messages)
            lane.messages.clear()
            self._lanes.pop(lane, None)
            partition.wake_if_roomy(queue)
            if left:
                await self._release(left)

    async def _deliver_first(self, lane: Lane, partition: _Partition) -> bool:
        """Whether the next message of the key may follow."""
        message = lane.messages[0]
        async with partition.limits[message.queue]:
            settlement = await self._try_to_deliver(message, Held(message.id, lane.token))
        lane.settling = message.id
        if not await self._settler.settle(settlement):
            raise LeaseLostError
        self._count(message, settlement)
        return not isinstance(settlement, Retry)

    async def _try_to_deliver(self, message: Message, held: Held) -> Settlement:
        handler = self._handlers[message.queue]
        try:
            with log_fields(processing_stage="deliver"):
                await handler.handle(message)
        except RejectedMessageError as error:
            return Dead(held, reason=f"rejected: {error}")
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            failures = message.attempts + 1
            if failures >= handler.max_attempts:
                return Dead(held, reason)
            logger.info(
                "an outbox message could not be delivered, will try again",
                extra={"queue": message.queue, "outbox_id": message.id, "failures": failures, "reason": reason},
            )
            settings = self._settings
            delay = retry_delay(failures, base_secs=settings.backoff_base_secs, max_secs=settings.backoff_max_secs)
            return Retry(held, delay, reason)
        return Delivered(held)

    def _count(self, message: Message, settlement: Settlement) -> None:
        result = {Delivered: "ok", Retry: "retry", Dead: "dead_letter"}[type(settlement)]
        self._metrics.outbox_handler.labels(kind=message.queue, result=result).inc()
        if isinstance(settlement, Dead):
            logger.error(
                "an outbox message became a dead letter",
                extra={"queue": message.queue, "outbox_id": message.id, "reason": settlement.reason},
            )

    async def _release(self, held: Sequence[Held]) -> None:
        """Spare others the wait for the lease to run out."""
        try:
            async with asyncio.timeout(GRACE_SECS), self._sessions.begin() as session:
                await OutboxRepository(session).release(held)
        except Exception as error:
            logger.info("outbox messages could not be released, their leases will run out: %r", error)


class _Partition:
    """The share of one delivery task, and how much of it is under way."""

    def __init__(self, slots: list[int], queues: dict[str, Handler]) -> None:
        self.slots = slots
        self.wake = asyncio.Event()
        self.has_news = False
        """Woken by a commit, which others may follow; not by room for more."""
        self.held: Counter[str] = Counter()
        self.limits = {queue: asyncio.Semaphore(MOST_AT_ONCE) for queue in queues}

    def quotas(self) -> dict[str, int]:
        """How much may be claimed, by queue: in halves of what may be held, so that a claim pays."""
        return {queue: MOST_HELD - self.held[queue] for queue in self.limits if self._is_roomy(queue)}

    def wake_if_roomy(self, queue: str) -> None:
        if self._is_roomy(queue):
            self.wake.set()

    def _is_roomy(self, queue: str) -> bool:
        return self.held[queue] <= MOST_HELD // 2

"""Writes what became of messages to the database, many at a time.

Delivery tasks settle one message each and wait for it. While one transaction is under way the others' wishes gather,
and go together into the next: one connection carries any number of small messages. While the database is away it is
tried again, until whoever waits gives up because the lease is lost.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from shared.db.engine import Sessions, is_database_away
from shared.outbox.repository import Held, OutboxRepository, Retry

logger = logging.getLogger(__name__)

RETRY_SECS: Final = 0.5


@dataclass(frozen=True, slots=True)
class Delivered:
    held: Held


@dataclass(frozen=True, slots=True)
class Dead:
    held: Held
    reason: str


Settlement = Delivered | Retry | Dead


class Settler:
    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._waiting: list[tuple[Settlement, asyncio.Future[bool]]] = []
        self._has_work = asyncio.Event()

    async def settle(self, settlement: Settlement) -> bool:
        """Commit it; False if the message had been taken by somebody else."""
        done = asyncio.get_running_loop().create_future()
        self._waiting.append((settlement, done))
        self._has_work.set()
        return bool(await done)

    async def run(self) -> None:
        """Serve `settle` for ever."""
        while True:
            await self._has_work.wait()
            self._has_work.clear()
            batch = [(settlement, done) for settlement, done in self._waiting if not done.done()]
            self._waiting.clear()
            try:
                await self._commit(batch)
            except Exception as error:
                if not is_database_away(error):
                    logger.exception("deliveries could not be noted")
                self._waiting = batch + self._waiting
                self._has_work.set()
                await asyncio.sleep(RETRY_SECS)

    async def _commit(self, batch: Sequence[tuple[Settlement, asyncio.Future[bool]]]) -> None:
        if not batch:
            return
        settlements = [settlement for settlement, _ in batch]
        delivered = [one.held for one in settlements if isinstance(one, Delivered)]
        retries = [one for one in settlements if isinstance(one, Retry)]
        changed: set[Held] = set()
        async with self._sessions.begin() as session:
            outbox = OutboxRepository(session)
            if delivered:
                ids = await outbox.mark_delivered(delivered)
                changed.update(held for held in delivered if held.id in ids)
            if retries:
                ids = await outbox.retry_later(retries)
                changed.update(retry.held for retry in retries if retry.held.id in ids)
            for one in settlements:
                if isinstance(one, Dead) and await outbox.bury(one.held, reason=one.reason):
                    changed.add(one.held)
        for settlement, done in batch:
            if not done.done():
                done.set_result(settlement.held in changed)

"""What an operator's command opens to change turns: the same parts that the processes use, without a catalog.

A turn is settled by the policy it was accepted under, which is stored; so a command needs neither the catalog file nor
the secrets in it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from shared.clock import SystemClock
from shared.db.engine import Sessions, open_database
from shared.events.log import EventLog
from shared.metrics import Metrics
from shared.policy.snapshots import StoredPolicies
from shared.queue.queue import JobQueue
from shared.settings import Settings
from shared.turns.finalize import TurnFinalizer
from shared.turns.stop import TurnStopper
from shared.valkey.client import Valkey, open_valkey


@dataclass(frozen=True)
class TurnOperator:
    sessions: Sessions
    valkey: Valkey
    log: EventLog
    queue: JobQueue
    stopper: TurnStopper


@asynccontextmanager
async def open_operator(settings: Settings) -> AsyncIterator[TurnOperator]:
    """Open both servers for the length of the block; connections are made on first use.

    Raises:
        ConfigurationError: `database.url` or `redis.url` is not set.
    """
    async with open_database(settings.database) as (_, sessions), open_valkey(settings.redis) as valkey:
        log = EventLog(valkey, settings)
        metrics = Metrics(settings.metrics.prefix)  # nobody reads them: the command ends before they could be scraped
        finalizer = TurnFinalizer(sessions, StoredPolicies(sessions), settings, metrics)
        stopper = TurnStopper(
            sessions=sessions, finalizer=finalizer, valkey=valkey, log=log, clock=SystemClock(), metrics=metrics
        )
        yield TurnOperator(sessions, valkey, log, JobQueue(valkey, settings), stopper)

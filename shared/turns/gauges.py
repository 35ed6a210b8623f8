"""How many turns wait and how many run, counted in PostgreSQL: the number by which workers are scaled."""

from __future__ import annotations

from datetime import timedelta

from shared.db.engine import Sessions
from shared.metrics import Metrics
from shared.turns.repository import TurnRepository

GAUGE_INTERVAL = timedelta(seconds=15)


async def measure_turns(sessions: Sessions, metrics: Metrics) -> None:
    """Set `turns_queued` and `turns_running`. Raises what the database raises."""
    async with sessions() as session:
        waiting, running = await TurnRepository(session).count_waiting_and_running()
    metrics.turns_queued.set(waiting)
    metrics.turns_running.set(running)

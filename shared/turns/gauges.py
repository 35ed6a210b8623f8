"""What is measured in PostgreSQL every now and then: turns that wait and run, by which workers are scaled, and what
running turns have reserved."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from sqlalchemy import Date, cast, func, literal_column, select

from shared.db.engine import Sessions
from shared.metrics import Metrics
from shared.turns.repository import TurnRepository
from shared.turns.tables import Turn

GAUGE_INTERVAL = timedelta(seconds=15)

_RESERVED: Final = select(
    func.coalesce(func.sum(Turn.reserve_tokens).filter(Turn.daily_period_start == func.current_date()), 0),
    func.coalesce(
        func.sum(Turn.reserve_tokens).filter(
            Turn.monthly_period_start == cast(func.date_trunc("month", func.now()), Date)
        ),
        0,
    ),
).where(Turn.state == literal_column("'running'"), Turn.deleted_at.is_(None))


async def measure_turns(sessions: Sessions, metrics: Metrics) -> None:
    """Set `turns_queued`, `turns_running` and `quota_reserved_tokens`. Raises what the database raises."""
    async with sessions() as session:
        waiting, running = await TurnRepository(session).count_waiting_and_running()
        daily, monthly = (await session.execute(_RESERVED)).one()
    metrics.turns_queued.set(waiting)
    metrics.turns_running.set(running)
    metrics.quota_reserved_tokens.labels("daily").set(daily or 0)
    metrics.quota_reserved_tokens.labels("monthly").set(monthly or 0)

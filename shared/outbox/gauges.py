"""How much waits in the outbox and how much has failed for good, by queue."""

from __future__ import annotations

from typing import Final

from sqlalchemy import func, select

from shared.db.engine import Sessions
from shared.metrics import Metrics
from shared.outbox.messages import QUEUES
from shared.outbox.tables import OutboxDeadLetter, OutboxMessage

_PENDING: Final = (
    select(OutboxMessage.queue, func.count().label("waiting"))
    .where(OutboxMessage.delivered_at.is_(None))
    .group_by(OutboxMessage.queue)
)
_DEAD: Final = (
    select(
        OutboxDeadLetter.queue,
        func.count(),
        func.extract("epoch", func.now() - func.min(OutboxDeadLetter.failed_at)),
    )
    .where(OutboxDeadLetter.resolved_at.is_(None))
    .group_by(OutboxDeadLetter.queue)
)


async def measure_outbox(sessions: Sessions, metrics: Metrics) -> None:
    """Set the gauges of the outbox; a queue with nothing in it is zero. Raises what the database raises."""
    async with sessions() as session:
        pending = {row.queue: row.waiting for row in await session.execute(_PENDING)}
        dead = {queue: (count, float(age)) for queue, count, age in await session.execute(_DEAD)}
    for queue in (*QUEUES, *(pending.keys() | dead.keys()) - set(QUEUES)):
        count, age = dead.get(queue, (0, 0.0))
        metrics.outbox_pending.labels(kind=queue).set(pending.get(queue, 0))
        metrics.outbox_dead_letter_backlog.labels(kind=queue).set(count)
        metrics.outbox_dead_letter_oldest_age_seconds.labels(kind=queue).set(age)

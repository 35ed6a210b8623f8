"""Writes messages into the outbox, in the transaction of the change that they tell of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from sqlalchemy import DateTime, bindparam, event, func
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from shared.metrics import Metrics
from shared.outbox.tables import OutboxMessage

_TIMESTAMP: Final = DateTime(timezone=True)

# A message with a dedupe key that its queue already has says the same once more.
_INSERT: Final = (
    insert(OutboxMessage)
    .values(
        queue=bindparam("new_queue"),
        partition_key=bindparam("new_partition_key"),
        payload_type=bindparam("new_payload_type"),
        payload=bindparam("new_payload"),
        dedupe_key=bindparam("new_dedupe_key"),
        available_at=func.coalesce(bindparam("new_available_at", type_=_TIMESTAMP), func.now()),
        created_at=func.coalesce(bindparam("new_created_at", type_=_TIMESTAMP), func.now()),
    )
    .on_conflict_do_nothing(index_elements=["queue", "dedupe_key"], index_where=OutboxMessage.dedupe_key.is_not(None))
    .returning(OutboxMessage.id)
)
_MEMBERS: Final = (
    *("queue", "partition_key", "payload_type", "payload", "dedupe_key"),
    *("available_at", "created_at"),
)


async def enqueue(
    session: AsyncSession,
    messages: Sequence[OutboxMessage],
    *,
    metrics: Metrics | None = None,
    wake: Callable[[], None] | None = None,
) -> int:
    """Insert them in this order, due now and created now unless they say otherwise; how many were new.

    Args:
        metrics: where to count them, once the transaction has been committed.
        wake: called then, for a process that delivers (`Delivery.wake`); all others find out by polling.
    """
    results = [(message.queue, await session.scalar(_INSERT, _row(message)) is not None) for message in messages]

    is_told = False

    def tell(committed: Session) -> None:
        nonlocal is_told
        if is_told or committed.in_nested_transaction():
            return  # a savepoint is no commit; and a session may be used again
        is_told = True
        if metrics is not None:
            for queue, is_new in results:
                metrics.outbox_enqueue.labels(kind=queue, result="ok" if is_new else "duplicate").inc()
        if wake is not None:
            wake()

    if metrics is not None or wake is not None:
        event.listen(session.sync_session, "after_commit", tell)
    return sum(is_new for _, is_new in results)


def _row(message: OutboxMessage) -> dict[str, object]:
    return {f"new_{name}": getattr(message, name) for name in _MEMBERS}

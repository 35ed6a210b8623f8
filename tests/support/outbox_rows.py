"""Outbox messages as tests want them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import select

from shared.clock import SystemClock
from shared.db.engine import Sessions
from shared.outbox.tables import OutboxDeadLetter, OutboxMessage


async def insert_messages(
    sessions: Sessions, *names: str, queue: str = "test", key: str = "k", **columns: Any
) -> list[OutboxMessage]:
    """Messages of one key in this order, each with its name as payload; `columns` replace the defaults."""
    now: datetime = SystemClock().now()
    values: dict[str, Any] = {"payload_type": "test", "attempts": 0, "available_at": now, "created_at": now} | columns
    messages = [OutboxMessage(queue=queue, partition_key=key, payload={"name": name}, **values) for name in names]
    async with sessions.begin() as session:
        for message in messages:
            session.add(message)
            await session.flush()
    return messages


async def stored_messages(sessions: Sessions) -> list[OutboxMessage]:
    async with sessions() as session:
        return list(await session.scalars(select(OutboxMessage).order_by(OutboxMessage.id)))


async def dead_letters(sessions: Sessions) -> list[OutboxDeadLetter]:
    async with sessions() as session:
        return list(await session.scalars(select(OutboxDeadLetter).order_by(OutboxDeadLetter.id)))


async def count_undelivered(sessions: Sessions) -> int:
    return sum(message.delivered_at is None for message in await stored_messages(sessions))

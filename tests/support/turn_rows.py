"""Rows of turns as tests want them, written past the API."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import update

from shared.chats.tables import Chat
from shared.clock import SystemClock
from shared.db.engine import Sessions
from shared.ids import new_uuid4, new_uuid7
from shared.messages.tables import Message
from shared.turns.tables import Turn


async def insert_turn(sessions: Sessions, *, age: timedelta = timedelta(), **columns: Any) -> Turn:
    """A running turn in a chat of its own, with its user message; `columns` replace the defaults."""
    now: datetime = SystemClock().now() - age
    tenant_id, user_id = columns.get("tenant_id", new_uuid4()), columns.get("requester_user_id", new_uuid4())
    chat = Chat(id=new_uuid7(), tenant_id=tenant_id, user_id=user_id, model="gpt-5.2", created_at=now, updated_at=now)
    values: dict[str, Any] = {
        "id": new_uuid4(),
        "tenant_id": tenant_id,
        "chat_id": chat.id,
        "request_id": new_uuid4(),
        "requester_type": "user",
        "requester_user_id": user_id,
        "state": "running",
        "planned_message_id": new_uuid4(),
        "effective_model": "gpt-5.2",
        "max_output_tokens_applied": 8_192,
        "quota_decision": "allow",
        "on_disconnect": "continue",
        "on_worker_loss": "restart",
        "attempt": 0,
        "lost_attempts": 0,
        "started_at": now,
        "last_progress_at": now,
        "updated_at": now,
    }
    turn = Turn(**(values | columns))
    question = Message(
        id=new_uuid4(),
        tenant_id=tenant_id,
        chat_id=chat.id,
        request_id=turn.request_id,
        role="user",
        content="?",
        created_at=now,
    )
    async with sessions.begin() as session:
        session.add(chat)
        await session.flush()
        session.add_all([turn, question])
    return turn


async def get_turn(sessions: Sessions, turn: Turn) -> Turn:
    """The turn as it is stored now."""
    async with sessions() as session:
        return await session.get_one(Turn, turn.id)


async def change_turn(sessions: Sessions, turn: Turn, **columns: Any) -> None:
    async with sessions.begin() as session:
        await session.execute(update(Turn).where(Turn.id == turn.id).values(**columns))

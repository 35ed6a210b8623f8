"""What the hourly purge deletes, and what it must leave."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select, text, update

from shared.attachments.tables import Attachment, ChatVectorStore
from shared.chats.tables import Chat
from shared.clock import SystemClock
from shared.db.engine import Sessions
from shared.ids import new_uuid4
from shared.settings import Settings
from shared.turns.tables import Turn
from tests.support.outbox_rows import insert_messages, stored_messages
from tests.support.turn_rows import change_turn, insert_turn
from worker.retention import PURGE_LOCK, Purge

NOW: datetime = SystemClock().now()
LONG_AGO = NOW - timedelta(days=31)


@pytest.fixture
def purge(sessions: Sessions) -> Purge:
    return Purge(Settings(), sessions)


async def deleted_chat(sessions: Sessions, *, deleted_at: datetime = LONG_AGO) -> Turn:
    turn = await insert_turn(sessions)
    await change_turn(sessions, turn, state="completed", completed_at=NOW)
    async with sessions.begin() as session:
        await session.execute(update(Chat).where(Chat.id == turn.chat_id).values(deleted_at=deleted_at))
    return turn


async def chats(sessions: Sessions) -> set[UUID]:
    async with sessions() as session:
        return set(await session.scalars(select(Chat.id)))


async def add(sessions: Sessions, row: object) -> None:
    async with sessions.begin() as session:
        session.add(row)


def attachment(turn: Turn, **columns: Any) -> Attachment:
    values: dict[str, Any] = {
        "id": new_uuid4(),
        "tenant_id": turn.tenant_id,
        "chat_id": turn.chat_id,
        "uploaded_by_user_id": new_uuid4(),
        "filename": "a.txt",
        "content_type": "text/plain",
        "size_bytes": 1,
        "storage_backend": "openai",
        "status": "ready",
        "attachment_kind": "document",
        "created_at": NOW,
    }
    return Attachment(**(values | columns))


async def test_delivered_messages_go_after_their_time(
    sessions: Sessions, purge: Purge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.retention.MESSAGE_BATCH", 2)
    await insert_messages(sessions, *"abcde", delivered_at=NOW - timedelta(hours=25))
    await insert_messages(sessions, "recent", delivered_at=NOW - timedelta(hours=23))
    await insert_messages(sessions, "waiting", created_at=LONG_AGO)
    await purge.run()
    assert [message.payload["name"] for message in await stored_messages(sessions)] == ["recent", "waiting"]


async def test_one_process_purges_at_a_time(sessions: Sessions, purge: Purge) -> None:
    await insert_messages(sessions, "a", delivered_at=LONG_AGO)
    async with sessions.begin() as session:
        await session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": PURGE_LOCK})
        await purge.run()
    assert len(await stored_messages(sessions)) == 1
    await purge.run()
    assert await stored_messages(sessions) == []


async def test_a_deleted_chat_goes_after_its_grace_with_all_that_is_its(sessions: Sessions, purge: Purge) -> None:
    gone = await deleted_chat(sessions)
    await add(sessions, attachment(gone, cleanup_status="done"))
    await add(sessions, attachment(gone, deleted_at=LONG_AGO))
    recent = await deleted_chat(sessions, deleted_at=NOW - timedelta(days=29))
    living = await insert_turn(sessions)
    await purge.run()
    assert await chats(sessions) == {recent.chat_id, living.chat_id}
    async with sessions() as session:
        assert set(await session.scalars(select(Turn.id))) == {recent.id, living.id}


async def leave_attachment(sessions: Sessions, turn: Turn, cleanup_status: str) -> None:
    await add(sessions, attachment(turn, cleanup_status=cleanup_status))


async def leave_upload(sessions: Sessions, turn: Turn) -> None:
    await add(sessions, attachment(turn, status="pending", cleanup_status="done"))


async def leave_vector_store(sessions: Sessions, turn: Turn) -> None:
    values = {"id": new_uuid4(), "tenant_id": turn.tenant_id, "provider": "openai", "created_at": NOW}
    await add(sessions, ChatVectorStore(chat_id=turn.chat_id, **values))


async def leave_running_turn(sessions: Sessions, turn: Turn) -> None:
    await change_turn(sessions, turn, state="running", completed_at=None)


async def leave_message(sessions: Sessions, turn: Turn) -> None:
    await insert_messages(sessions, "x", queue="chat_cleanup", key=str(turn.chat_id))


@pytest.mark.parametrize(
    "leave",
    [
        lambda sessions, turn: leave_attachment(sessions, turn, "pending"),
        lambda sessions, turn: leave_attachment(sessions, turn, "failed"),
        leave_upload,
        leave_vector_store,
        leave_running_turn,
        leave_message,
    ],
    ids=["pending", "failed", "upload", "vector store", "running turn", "undelivered"],
)
async def test_a_chat_that_is_still_needed_stays(
    sessions: Sessions, purge: Purge, leave: Callable[[Sessions, Turn], Awaitable[None]]
) -> None:
    kept, gone = await deleted_chat(sessions), await deleted_chat(sessions)
    await leave(sessions, kept)
    await purge.run()
    assert await chats(sessions) == {kept.chat_id}
    assert gone.chat_id not in await chats(sessions)

"""Cleanups of which no message speaks any more."""

from __future__ import annotations

import asyncio

from sqlalchemy import text, update

from shared.clock import SystemClock
from shared.ids import ChatId
from shared.outbox.tables import OutboxDeadLetter, OutboxMessage
from tests.integration.cleanup.scene import Scene
from tests.support.outbox_rows import dead_letters, stored_messages
from worker.cleanup.reconciliation import RECONCILIATION_LOCK


async def lose_message(scene: Scene, chat_id: ChatId) -> None:
    """A deleted chat whose message is not there, or delivered long ago."""
    await scene.delete_chat(chat_id)
    async with scene.sessions.begin() as session:
        await session.execute(update(OutboxMessage).values(delivered_at=SystemClock().now()))


async def open_messages(scene: Scene) -> list[str]:
    return [message.partition_key for message in await stored_messages(scene.sessions) if message.delivered_at is None]


async def test_pending_files_without_a_message_get_one(scene: Scene) -> None:
    chat_id, live = await scene.add_chat(), await scene.add_chat()
    await lose_message(scene, chat_id)
    await scene.reconciliation().run()
    assert await open_messages(scene) == [str(chat_id)]
    await scene.reconciliation().run()
    assert await open_messages(scene) == [str(chat_id)], "an open message suffices"

    await scene.deliver_all()
    assert await scene.statuses(chat_id) == ["done", "done"]
    assert await scene.statuses(live) == [None, None]
    await scene.reconciliation().run()
    assert await open_messages(scene) == []


async def test_a_vector_store_made_during_the_cleanup_is_found(scene: Scene) -> None:
    chat_id = await scene.add_chat(files=0, with_store=False)
    await scene.delete_chat(chat_id)
    await scene.deliver_all()
    await scene.add_store(chat_id)
    await scene.reconciliation().run()
    await scene.deliver_all()
    assert await scene.provider.held() == (set(), set())
    assert not await scene.has_store_row(chat_id)


async def test_an_unresolved_dead_letter_waits_for_an_operator(scene: Scene) -> None:
    chat_id = await scene.add_chat(files=0)
    await scene.delete_chat(chat_id)
    await scene.provider.script("vector_store_delete", times=None, http_status=500)
    await scene.deliver_all()
    assert len(await dead_letters(scene.sessions)) == 1
    await scene.reconciliation().run()
    assert await open_messages(scene) == []

    await scene.provider.recover()
    async with scene.sessions.begin() as session:
        await session.execute(update(OutboxDeadLetter).values(resolved_at=SystemClock().now()))
    await scene.reconciliation().run()
    await scene.deliver_all()
    assert await scene.provider.held() == (set(), set())


async def test_one_pass_takes_a_batch_and_the_oldest_first(scene: Scene) -> None:
    chats = [await scene.add_chat(files=1, with_store=False) for _ in range(3)]
    for chat_id in chats:
        await lose_message(scene, chat_id)
    await scene.reconciliation(batch=2).run()
    assert await open_messages(scene) == [str(chat_id) for chat_id in chats[:2]]


async def test_one_process_reconciles_at_a_time(scene: Scene) -> None:
    chat_id = await scene.add_chat()
    await lose_message(scene, chat_id)
    async with scene.sessions.begin() as session:
        await session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": RECONCILIATION_LOCK})
        await scene.reconciliation().run()
    assert await open_messages(scene) == []
    await asyncio.gather(*(scene.reconciliation().run() for _ in range(4)))
    assert await open_messages(scene) == [str(chat_id)]

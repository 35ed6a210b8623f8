"""What no message speaks of: unfinished cleanups, and files that no row names."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import text, update

from shared.attachments.tables import Attachment
from shared.clock import SystemClock
from shared.ids import ChatId, new_uuid4
from shared.outbox.tables import OutboxDeadLetter, OutboxMessage
from tests.integration.cleanup.scene import Scene, both_styles
from tests.support.outbox_rows import dead_letters, stored_messages
from worker.cleanup.reconciliation import RECONCILIATION_LOCK
from worker.cleanup.strays import SEARCH_TIME, STRAY_LOCK


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


@both_styles
@pytest.mark.parametrize("end", ["failed", "attachment deleted", "chat deleted"])
async def test_a_file_whose_upload_died_before_its_row_knew_is_deleted(scene: Scene, end: str) -> None:
    chat_id = await scene.add_chat(files=1)
    kept, _ = await scene.provider.held()
    row = scene.row(chat_id, status="pending")
    await scene.add(row)
    file_id = await scene.upload(row)
    await scene.strays.run()
    assert file_id in (await scene.provider.held())[0], "it may still be uploading"

    if end == "failed":
        await change(scene, row, status="failed", error_code="upload_failed")
    elif end == "attachment deleted":
        await scene.delete_attachment(row)
    else:
        await scene.delete_chat(chat_id)
    await scene.deliver_all()
    await scene.strays.run()
    left, _ = await scene.provider.held()
    assert left == (set() if end == "chat deleted" else kept)


async def test_what_others_have_stored_is_left_alone(scene: Scene) -> None:
    """Files of other programs, and of another deployment with the same account and names of the same form."""
    chat_id = await scene.add_chat(files=1)
    failed = scene.row(chat_id, status="failed")
    await scene.add(failed)
    foreign = scene.row(ChatId(new_uuid4()))
    await scene.upload(foreign)
    twin = scene.row(ChatId(new_uuid4()), id=failed.id)  # the same attachment, but in another chat
    await scene.upload(twin)
    ours = await scene.upload(failed)
    before, _ = await scene.provider.held()
    await scene.strays.run()
    assert (await scene.provider.held())[0] == before - {ours}


async def test_files_are_not_listed_without_a_reason(scene: Scene) -> None:
    chat_id = await scene.add_chat(files=1)
    old = scene.row(chat_id, status="failed", updated_at=SystemClock().now() - SEARCH_TIME)
    await scene.add(old)
    await scene.upload(old)
    before, _ = await scene.provider.held()
    await scene.strays.run()
    assert (await scene.provider.held())[0] == before
    assert scene.count("provider_requests_total", provider="openai", endpoint="file_list") == 0


async def test_a_search_that_fails_is_made_again(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    chat_id = await scene.add_chat(files=0, with_store=False)
    for backend in (scene.backend, "gone"):
        await scene.add(scene.row(chat_id, status="failed", storage_backend=backend))
    row = scene.row(chat_id, status="failed")
    await scene.add(row)
    await scene.upload(row)
    await scene.provider.script("file_list", http_status=500)
    await scene.strays.run()
    assert len((await scene.provider.held())[0]) == 1
    assert [record.levelname for record in caplog.records if "no row names" in record.message] == ["WARNING"] * 2
    await scene.strays.run()
    assert (await scene.provider.held())[0] == set()


async def test_one_process_searches_at_a_time(scene: Scene) -> None:
    chat_id = await scene.add_chat(files=0, with_store=False)
    row = scene.row(chat_id, status="failed")
    await scene.add(row)
    await scene.upload(row)
    async with scene.sessions.begin() as session:
        await session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": STRAY_LOCK})
        await scene.strays.run()
    assert len((await scene.provider.held())[0]) == 1


async def change(scene: Scene, row: Attachment, **columns: object) -> None:
    async with scene.sessions.begin() as session:
        await session.execute(update(Attachment).where(Attachment.id == row.id).values(**columns))

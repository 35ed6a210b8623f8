"""Deleted attachments of chats that live on."""

from __future__ import annotations

from typing import Any

import pytest

from shared.attachments.gauges import measure_attachments
from shared.attachments.tables import Attachment
from shared.ids import ChatId, new_uuid4
from shared.outbox.messages import attachment_deleted
from shared.outbox.repository import Message
from tests.integration.cleanup.scene import MAX_ATTEMPTS, Scene, both_styles, dying_at
from tests.support.outbox_rows import dead_letters, stored_messages
from worker.outbox.handlers import RejectedMessageError


async def add_deleted(scene: Scene) -> tuple[Attachment, str]:
    """A deleted document beside a live one, and the vector store that both are in."""
    chat_id = await scene.add_chat(files=0, with_store=False)
    store_id = await scene.add_store(chat_id)
    await scene.add_file(chat_id, store_id=store_id)
    row = await scene.add_file(chat_id, store_id=store_id)
    await scene.delete_attachment(row, store_id=store_id)
    return row, store_id


async def stored(scene: Scene, row: Attachment) -> Attachment:
    async with scene.sessions() as session:
        return await session.get_one(Attachment, row.id)


async def message_of(scene: Scene, **payload: Any) -> Message:
    [written] = await stored_messages(scene.sessions)
    return Message(
        id=written.id,
        queue=written.queue,
        partition_key=written.partition_key,
        payload_type=written.payload_type,
        payload={**written.payload, **payload},
        dedupe_key=None,
        attempts=0,
        created_at=written.created_at,
    )


@both_styles
async def test_71_a_deleted_file_leaves_the_vector_store_and_then_the_provider(scene: Scene) -> None:
    row, store_id = await add_deleted(scene)
    await scene.deliver_all()
    file_id = row.provider_file_id
    assert await scene.provider.deletions() == [f"/vector_stores/{store_id}/files/{file_id}", f"/files/{file_id}"]
    files, stores = await scene.provider.held()
    assert (len(files), stores) == (1, {store_id})
    assert (await stored(scene, row)).cleanup_status == "done"
    assert scene.count("cleanup_completed_total", resource_type="file") == 1
    assert scene.count("cleanup_latency_ms_count", op="vector_store_remove") == 1


@both_styles
async def test_71_what_is_gone_already_is_done(scene: Scene) -> None:
    row, store_id = await add_deleted(scene)
    assert row.provider_file_id is not None
    await scene.storage.delete_file(row.provider_file_id)
    await scene.storage.delete_vector_store(store_id)
    await scene.deliver_all()
    assert (await stored(scene, row)).cleanup_status == "done"
    assert await dead_letters(scene.sessions) == []


@both_styles
@pytest.mark.parametrize("call", ["vector_store_remove", "file_delete"])
async def test_71_five_failures_are_final(scene: Scene, call: str) -> None:
    row, _ = await add_deleted(scene)
    await scene.provider.script(call, times=None, http_status=500, body={"error": {"message": "file-0a1b2c is stuck"}})
    await scene.deliver_all()
    after = await stored(scene, row)
    assert (after.cleanup_status, after.cleanup_attempts) == ("failed", MAX_ATTEMPTS)
    assert after.last_cleanup_error == "provider_error: [provider_id] is stuck"
    assert row.provider_file_id in (await scene.provider.held())[0]
    [letter] = await dead_letters(scene.sessions)
    assert (letter.queue, letter.attempts) == ("attachment_cleanup", MAX_ATTEMPTS)
    await measure_attachments(scene.sessions, scene.metrics)
    assert scene.count("cleanup_failed_total", resource_type="file") == 1
    assert scene.count("cleanup_backlog", state="failed", resource_type="file") == 1


async def test_a_file_that_failed_once_is_tried_again(scene: Scene) -> None:
    row, _ = await add_deleted(scene)
    await scene.provider.script("file_delete", http_status=403)
    await scene.deliver_all()
    after = await stored(scene, row)
    assert (after.cleanup_status, after.cleanup_attempts) == ("done", 1)
    [message] = await stored_messages(scene.sessions)
    assert message.attempts == 1
    assert scene.count("cleanup_retry_total", resource_type="file", reason="provider_error") == 1


async def test_the_cleanup_of_the_chat_owns_its_attachments(scene: Scene) -> None:
    row, _ = await add_deleted(scene)
    message = await message_of(scene)
    await scene.delete_chat(ChatId(row.chat_id))
    await scene.attachment_cleanup.handle(message)
    assert await scene.provider.deletions() == []
    assert (await stored(scene, row)).cleanup_status == "pending"


async def test_without_a_file_there_is_nothing_to_do(scene: Scene) -> None:
    chat_id = await scene.add_chat(files=0, with_store=False)
    row = scene.row(chat_id, status="pending")
    await scene.add(row)
    await scene.delete_attachment(row)
    await scene.deliver_all()
    assert await scene.provider.deletions() == []
    assert (await stored(scene, row)).cleanup_status == "done"


async def test_what_makes_no_sense_is_rejected(scene: Scene) -> None:
    row, _ = await add_deleted(scene)
    live = next(one for one in await scene.attachments(ChatId(row.chat_id)) if one.id != row.id)
    for payload in ({"attachment_id": str(live.id)}, {"attachment_id": "x"}, {"chat_id": None}, {"vector_store_id": 1}):
        with pytest.raises(RejectedMessageError):
            await scene.attachment_cleanup.handle(await message_of(scene, **payload))
    # What is not there, or another tenant's, is nobody's to remove.
    for payload in ({"attachment_id": str(new_uuid4())}, {"tenant_id": str(new_uuid4())}):
        await scene.attachment_cleanup.handle(await message_of(scene, **payload))
    assert await scene.provider.deletions() == []


@pytest.mark.parametrize(
    "fault",
    [
        "before_store_remove",
        "after_store_remove",
        "before_file_delete",
        "after_file_delete",
        "before_file_done",
        "before_file_done_commit",
    ],
)
async def test_a_worker_killed_on_the_way_is_followed_by_another(
    scene: Scene, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    row, _ = await add_deleted(scene)
    with dying_at(fault, monkeypatch):
        await scene.attachment_cleanup.handle(await message_of(scene))
    await scene.deliver_all()
    after = await stored(scene, row)
    assert (after.cleanup_status, after.cleanup_attempts) == ("done", 0)
    assert row.provider_file_id not in (await scene.provider.held())[0]


async def test_a_message_that_comes_again_after_the_last_failure_is_a_dead_letter_all_the_same(scene: Scene) -> None:
    """Its worker died after it had counted the last failure, and before it could say so."""
    row, _ = await add_deleted(scene)
    await scene.provider.script("file_delete", times=None, http_status=403)
    message = await message_of(scene)
    for _ in range(MAX_ATTEMPTS):
        with pytest.raises(Exception, match="row says why"):
            await scene.attachment_cleanup.handle(message)
    asked = await scene.provider.deletions()
    await scene.deliver_all()
    assert await scene.provider.deletions() == asked
    assert len(await dead_letters(scene.sessions)) == 1
    assert (await stored(scene, row)).cleanup_status == "failed"


async def test_a_finished_cleanup_is_not_repeated(scene: Scene) -> None:
    await add_deleted(scene)
    message = await message_of(scene)
    await scene.attachment_cleanup.handle(message)
    asked = await scene.provider.deletions()
    await scene.attachment_cleanup.handle(message)
    assert await scene.provider.deletions() == asked


@both_styles
async def test_the_file_of_a_failed_upload_goes_though_the_attachment_can_still_be_seen(scene: Scene) -> None:
    chat_id = await scene.add_chat(files=0, with_store=False)
    row = await scene.add_file(chat_id, status="failed", error_code="storage_limit_exceeded", cleanup_status="pending")
    await scene.add(attachment_deleted(row, vector_store_id=None, deleted_at=row.created_at))
    await scene.deliver_all()
    after = await stored(scene, row)
    assert (after.status, after.cleanup_status, after.deleted_at) == ("failed", "done", None)
    assert await dead_letters(scene.sessions) == []
    assert (await scene.provider.held())[0] == set()


async def test_the_file_of_an_attachment_in_use_stays(scene: Scene) -> None:
    row = await scene.add_file(await scene.add_chat(files=0, with_store=False))
    await scene.add(attachment_deleted(row, vector_store_id=None, deleted_at=row.created_at))
    with pytest.raises(RejectedMessageError, match="neither deleted nor failed"):
        await scene.attachment_cleanup.handle(await message_of(scene))
    assert row.provider_file_id in (await scene.provider.held())[0]

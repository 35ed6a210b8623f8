"""Deleted chats: nothing of them stays at the provider, whatever fails on the way."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import update

from shared.attachments.cleanup import CleanupRepository
from shared.attachments.gauges import measure_attachments
from shared.attachments.repository import AttachmentRepository
from shared.attachments.tables import ChatVectorStore
from shared.clock import SystemClock
from shared.ids import new_uuid4
from shared.outbox.dead_letters import DeadLetters
from shared.outbox.messages import chat_cleanup
from tests.integration.cleanup.scene import MAX_ATTEMPTS, Scene, both_styles, dying_at, message_about
from tests.support.outbox_rows import dead_letters, stored_messages
from worker.outbox.handlers import RejectedMessageError

NOTHING: tuple[set[str], set[str]] = (set(), set())
REFUSAL = {"error": {"message": "file-0a1b2c3d is stuck, see https://provider.example, key sk-abcdef123456"}}


@both_styles
async def test_74_files_are_deleted_before_the_vector_store(scene: Scene) -> None:
    chat_id, other = await scene.add_chat(files=3), await scene.add_chat()
    kept = await scene.provider.held()
    files = [row.provider_file_id for row in await scene.attachments(chat_id)]
    await scene.delete_chat(chat_id)
    await scene.deliver_all()

    *first, last = await scene.provider.deletions()
    assert first == [f"/files/{file_id}" for file_id in files]
    assert last.startswith("/vector_stores/")
    left_files, left_stores = await scene.provider.held()
    assert left_files == {row.provider_file_id for row in await scene.attachments(other)}
    assert kept[1] - left_stores == {last.rpartition("/")[2]}
    assert await scene.statuses(chat_id) == ["done"] * 3
    assert await scene.statuses(other) == [None, None]
    assert not await scene.has_store_row(chat_id)
    assert await scene.has_store_row(other)
    assert scene.count("cleanup_completed_total", resource_type="file") == 3
    assert scene.count("cleanup_completed_total", resource_type="vector_store") == 1
    assert scene.count("cleanup_latency_ms_count", op="file_delete") == 3


async def test_74_an_empty_chat_asks_the_provider_nothing(scene: Scene) -> None:
    chat_id = await scene.add_chat(files=0, with_store=False)
    await scene.delete_chat(chat_id)
    await scene.deliver_all()
    assert await scene.provider.deletions() == []
    [message] = await stored_messages(scene.sessions)
    assert (message.attempts, message.delivered_at is not None) == (0, True)


@both_styles
async def test_74_what_is_gone_already_is_done(scene: Scene) -> None:
    chat_id = await scene.add_chat(files=2)
    files, stores = await scene.provider.held()
    for file_id in files:
        await scene.storage.delete_file(file_id)
    for store_id in stores:
        await scene.storage.delete_vector_store(store_id)
    await scene.delete_chat(chat_id)
    await scene.deliver_all()
    assert await scene.statuses(chat_id) == ["done", "done"]
    assert not await scene.has_store_row(chat_id)
    assert await dead_letters(scene.sessions) == []


@both_styles
async def test_74_five_failures_of_a_file_are_final(scene: Scene) -> None:
    """And the vector store goes all the same; the message stays behind for an operator."""
    chat_id = await scene.add_chat(files=2)
    await scene.delete_chat(chat_id)
    await scene.provider.script("file_delete", times=None, http_status=500, body=REFUSAL)
    await scene.deliver_all()

    rows = await scene.attachments(chat_id)
    assert [(row.cleanup_status, row.cleanup_attempts) for row in rows] == [("failed", MAX_ATTEMPTS)] * 2
    error = rows[0].last_cleanup_error or ""
    assert "is stuck" in error
    assert not any(secret in error for secret in ("file-0a1b2c3d", "provider.example", "sk-abcdef"))
    files, stores = await scene.provider.held()
    assert (len(files), stores) == (2, set())
    assert not await scene.has_store_row(chat_id)
    [letter] = await dead_letters(scene.sessions)
    assert (letter.queue, letter.attempts) == ("chat_cleanup", MAX_ATTEMPTS)
    assert "2 files" in (letter.reason or "")

    assert scene.count("cleanup_failed_total", resource_type="file") == 2
    assert scene.count("cleanup_vector_store_with_failed_attachments_total") == 1
    assert scene.count("cleanup_retry_total", resource_type="file", reason="provider_error") > 0
    await measure_attachments(scene.sessions, scene.metrics)
    assert scene.count("cleanup_backlog", state="failed", resource_type="file") == 2
    assert scene.count("cleanup_backlog", state="pending", resource_type="file") == 0


@both_styles
async def test_74_the_vector_store_waits_while_any_file_is_pending(scene: Scene) -> None:
    chat_id = await scene.add_chat(files=3)
    await scene.delete_chat(chat_id)
    await scene.provider.script("file_delete", times=1, http_status=403)  # a refusal that no moment cures
    await scene.deliver_all()
    *first, last = await scene.provider.deletions()
    assert len(first) == 4
    assert last.startswith("/vector_stores/")
    rows = await scene.attachments(chat_id)
    assert sorted((row.cleanup_status, row.cleanup_attempts) for row in rows) == [("done", 0)] * 2 + [("done", 1)]
    [message] = await stored_messages(scene.sessions)
    assert message.attempts == 1
    assert await scene.provider.held() == NOTHING


async def test_a_vector_store_that_cannot_be_deleted_is_left_to_an_operator(scene: Scene) -> None:
    chat_id = await scene.add_chat(files=1)
    await scene.delete_chat(chat_id)
    await scene.provider.script("vector_store_delete", times=None, http_status=500, body=REFUSAL)
    await scene.deliver_all()
    assert await scene.statuses(chat_id) == ["done"]
    assert await scene.has_store_row(chat_id)
    [letter] = await dead_letters(scene.sessions)
    assert letter.attempts == MAX_ATTEMPTS
    assert "vector store" in (letter.reason or "")
    assert "file-0a1b2c3d" not in (letter.reason or "")
    assert scene.count("cleanup_retry_total", resource_type="vector_store", reason="provider_error") > 0


async def test_what_is_at_a_provider_that_the_catalog_has_no_more_is_left_to_an_operator(scene: Scene) -> None:
    chat_id = await scene.add_chat(files=1)
    await scene.add_file(chat_id, storage_backend="gone")
    await scene.delete_chat(chat_id)
    await scene.deliver_all()
    assert sorted(map(str, await scene.statuses(chat_id))) == ["done", "failed"]
    assert not await scene.has_store_row(chat_id)
    assert len(await dead_letters(scene.sessions)) == 1


@pytest.mark.parametrize(("call", "answer"), [("file_delete", {"terminal": "reset"}), ("any", {"http_status": 429})])
async def test_a_passing_failure_costs_no_try(scene: Scene, call: str, answer: dict[str, Any]) -> None:
    chat_id = await scene.add_chat(files=1)
    await scene.delete_chat(chat_id)
    await scene.provider.script(call, times=2, **answer)
    await scene.deliver_all()
    [row] = await scene.attachments(chat_id)
    assert (row.cleanup_status, row.cleanup_attempts) == ("done", 0)
    assert await scene.provider.held() == NOTHING


async def test_a_deletion_whose_answer_is_lost_is_done(scene: Scene) -> None:
    chat_id = await scene.add_chat(files=1)
    await scene.delete_chat(chat_id)
    await scene.provider.script("any", times=None, every=2, terminal="reset", has_effect=True)
    await scene.deliver_all()
    assert await scene.statuses(chat_id) == ["done"]
    assert await scene.provider.held() == NOTHING


async def test_the_cleanup_of_a_live_chat_is_rejected(scene: Scene) -> None:
    chat_id = await scene.add_chat(files=1)
    for message in (message_about(chat_id, scene.tenant_id), message_about(chat_id, new_uuid4())):
        with pytest.raises(RejectedMessageError, match="not deleted"):
            await scene.chat_cleanup.handle(message)
    assert await scene.provider.deletions() == []
    assert await scene.statuses(chat_id) == [None]


async def test_attachments_that_were_deleted_before_go_with_the_chat(scene: Scene) -> None:
    """Their own cleanup leaves them to it, whichever of the two comes first."""
    chat_id = await scene.add_chat(files=1)
    deleted = await scene.add_file(chat_id)
    await scene.delete_attachment(deleted)
    await scene.delete_chat(chat_id)
    await scene.deliver_all()
    assert await scene.statuses(chat_id) == ["done", "done"]
    assert await scene.provider.held() == NOTHING
    assert await dead_letters(scene.sessions) == []


async def test_an_upload_under_way_leaves_nothing_to_delete(scene: Scene) -> None:
    """Its row is done at once, so that the upload finds it ended and deletes what it has sent."""
    chat_id = await scene.add_chat(files=0, with_store=False)
    row = scene.row(chat_id, status="pending")
    await scene.add(row)
    await scene.delete_chat(chat_id)
    await scene.deliver_all()
    assert await scene.statuses(chat_id) == ["done"]
    assert await scene.provider.deletions() == []
    assert scene.count("cleanup_completed_total", resource_type="file") == 0


async def test_an_upload_that_ends_after_the_cleanup_is_cleaned_up_after_it(scene: Scene) -> None:
    """It hands over what it has sent, with a message of its own."""
    chat_id = await scene.add_chat(files=0, with_store=False)
    row = scene.row(chat_id, status="pending")
    await scene.add(row)
    await scene.delete_chat(chat_id)
    await scene.deliver_all()
    file_id = await scene.upload(row)
    now = SystemClock().now()
    async with scene.sessions.begin() as session:
        attachments = AttachmentRepository(session)
        ids: dict[str, Any] = {"tenant_id": scene.tenant_id, "provider_file_id": file_id}
        assert not await attachments.mark_uploaded(row.id, **ids, size_bytes=5, now=now)
        assert await attachments.give_up(row.id, "upload_failed", **ids, is_nowhere=False, now=now)
        session.add(chat_cleanup(chat_id, tenant_id=scene.tenant_id, deleted_at=now))
    await scene.deliver_all()
    assert await scene.provider.held() == NOTHING
    assert await scene.statuses(chat_id) == ["done"]


async def test_a_replayed_dead_letter_gives_its_files_new_tries(scene: Scene) -> None:
    chat_id, live = await scene.add_chat(files=1), await scene.add_chat(files=0)
    row = await scene.add_file(live)
    await scene.delete_chat(chat_id)
    await scene.delete_attachment(row)
    await scene.provider.script("any", times=None, http_status=503)
    await scene.deliver_all()
    assert [await scene.statuses(chat) for chat in (chat_id, live)] == [["failed"], ["failed"]]

    await scene.provider.recover()
    async with scene.sessions.begin() as session:
        replayed = await DeadLetters(session).replay(ids=[letter.id for letter in await dead_letters(scene.sessions)])
    assert len(replayed.queued) == 2
    await scene.deliver_all()
    assert [await scene.statuses(chat) for chat in (chat_id, live)] == [["done"], ["done"]]
    assert (await scene.provider.held())[0] == set()
    assert all(letter.resolved_at for letter in await dead_letters(scene.sessions))


async def test_a_vector_store_in_the_making_is_taken_from_its_maker(scene: Scene) -> None:
    chat_id = await scene.add_chat(files=0, with_store=False)
    await scene.add(scene.store_row(chat_id, vector_store_id=None))
    await scene.delete_chat(chat_id)
    await scene.deliver_all()
    assert not await scene.has_store_row(chat_id)


async def test_a_vector_store_that_gets_its_id_meanwhile_is_deleted(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat_id = await scene.add_chat(files=0, with_store=False)
    await scene.add(scene.store_row(chat_id, vector_store_id=None))
    await scene.delete_chat(chat_id)
    store_id = await scene.storage.create_vector_store()
    drop = CleanupRepository.drop_vector_store

    async def drop_late(repository: CleanupRepository, store: ChatVectorStore) -> bool:
        if store.vector_store_id is None:
            async with scene.sessions.begin() as session:
                await session.execute(update(ChatVectorStore).values(vector_store_id=store_id))
        return await drop(repository, store)

    monkeypatch.setattr(CleanupRepository, "drop_vector_store", drop_late)
    await scene.deliver_all()
    assert await scene.provider.held() == NOTHING
    assert not await scene.has_store_row(chat_id)


async def test_two_workers_with_one_chat_count_a_failure_once(scene: Scene) -> None:
    """As when one was taken for dead."""
    chat_id = await scene.add_chat(files=2)
    await scene.delete_chat(chat_id)
    await scene.provider.script("file_delete", times=None, delay_ms=50, http_status=403)
    message = message_about(chat_id, scene.tenant_id)
    results = await asyncio.gather(
        scene.chat_cleanup.handle(message), scene.chat_cleanup.handle(message), return_exceptions=True
    )
    assert all(isinstance(result, Exception) for result in results)
    assert [row.cleanup_attempts for row in await scene.attachments(chat_id)] == [1, 1]

    await scene.provider.recover()
    await asyncio.gather(scene.chat_cleanup.handle(message), scene.chat_cleanup.handle(message))
    assert await scene.statuses(chat_id) == ["done", "done"]
    assert await scene.provider.held() == NOTHING


@pytest.mark.parametrize(
    "fault",
    [
        "before_file_delete",
        "after_file_delete",
        "before_file_done",
        "before_file_done_commit",
        "before_files_counted",
        "before_store_delete",
        "after_store_delete",
        "before_store_row_drop",
        "before_store_row_drop_commit",
    ],
)
async def test_a_worker_killed_on_the_way_is_followed_by_another(
    scene: Scene, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat_id = await scene.add_chat(files=2)
    await scene.delete_chat(chat_id)
    with dying_at(fault, monkeypatch):
        await scene.chat_cleanup.handle(message_about(chat_id, scene.tenant_id))
    await scene.deliver_all()
    assert await scene.provider.held() == NOTHING
    rows = await scene.attachments(chat_id)
    assert [(row.cleanup_status, row.cleanup_attempts) for row in rows] == [("done", 0)] * 2
    assert not await scene.has_store_row(chat_id)


@pytest.mark.parametrize("fault", ["before_failure_counted", "before_failure_counted_commit"])
async def test_a_failure_that_its_worker_did_not_survive_does_not_count(
    scene: Scene, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat_id = await scene.add_chat(files=1)
    await scene.delete_chat(chat_id)
    await scene.provider.script("file_delete", http_status=403)
    with dying_at(fault, monkeypatch):
        await scene.chat_cleanup.handle(message_about(chat_id, scene.tenant_id))
    await scene.deliver_all()
    [row] = await scene.attachments(chat_id)
    assert (row.cleanup_status, row.cleanup_attempts) == ("done", 0)
    assert await scene.provider.held() == NOTHING


async def test_a_worker_killed_before_the_delivery_is_noted_repeats_in_vain(scene: Scene) -> None:
    chat_id = await scene.add_chat()
    await scene.delete_chat(chat_id)
    await scene.chat_cleanup.handle(message_about(chat_id, scene.tenant_id))
    asked = await scene.provider.deletions()
    await scene.deliver_all()
    assert await scene.provider.deletions() == asked
    assert await dead_letters(scene.sessions) == []


async def test_a_hundred_chats_are_cleaned_up_while_every_third_call_fails(scene: Scene) -> None:
    chats = await asyncio.gather(*(scene.add_chat(files=1) for _ in range(100)))
    for chat_id in chats:
        await scene.delete_chat(chat_id)
    await scene.provider.script("any", every=3, times=None, http_status=503)
    await scene.deliver_all()
    assert await scene.provider.held() == NOTHING
    assert await dead_letters(scene.sessions) == []
    for chat_id in chats:
        assert await scene.statuses(chat_id) == ["done"]
        assert not await scene.has_store_row(chat_id)


async def test_chats_whose_provider_fails_for_ever_are_shown_as_failed(scene: Scene) -> None:
    chats = [await scene.add_chat(files=1) for _ in range(5)]
    began = SystemClock().now()
    for chat_id in chats:
        await scene.delete_chat(chat_id)
    await scene.provider.script("any", times=None, http_status=503)
    await scene.deliver_all()
    letters = await dead_letters(scene.sessions)
    assert {letter.partition_key for letter in letters} == {str(chat_id) for chat_id in chats}
    assert all("1 files and the vector store" in (letter.reason or "") for letter in letters)
    assert all(letter.failed_at >= began for letter in letters)
    for chat_id in chats:
        assert await scene.statuses(chat_id) == ["failed"]
    await measure_attachments(scene.sessions, scene.metrics)
    assert scene.count("cleanup_failed_total", resource_type="file") == 5
    assert scene.count("cleanup_backlog", state="failed", resource_type="file") == 5
    assert scene.count("outbox_handler_total", kind="chat_cleanup", result="dead_letter") == 5


async def test_gauges_tell_what_is_under_way_has_failed_or_waits(scene: Scene) -> None:
    chat_id, deleted = await scene.add_chat(files=1), await scene.add_chat(files=3)
    for status in ("pending", "uploaded", "failed"):
        await scene.add(scene.row(chat_id, status=status))
        await scene.add(scene.row(deleted, status=status))
    for removal in ("pending", "done", "failed"):
        await scene.add(scene.row(chat_id, status="failed", cleanup_status=removal))
    await scene.add(scene.row(chat_id, status="failed", deleted_at=SystemClock().now(), cleanup_status="failed"))
    await scene.delete_chat(deleted)
    await measure_attachments(scene.sessions, scene.metrics)
    gauges = {
        sample.name.removeprefix("test_"): sample.value
        for metric in scene.metrics.registry.collect()
        for sample in metric.samples
        if sample.name.startswith("test_attachments_")
    }
    assert gauges == {"attachments_pending": 2, "attachments_failed": 4}
    assert scene.count("cleanup_backlog", state="pending", resource_type="file") == 7
    assert scene.count("cleanup_backlog", state="failed", resource_type="file") == 2

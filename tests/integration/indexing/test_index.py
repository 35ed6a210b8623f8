"""The indexing job on a real database and a provider over HTTP, in both storage styles."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import func, update

from shared.chats.tables import Chat
from tests.support.storage_stage import BACKENDS, STYLES, StorageStage, Style, job_of
from tests.support.waiting import wait_until
from worker.attachments import index as index_module

BOTH_STYLES = pytest.mark.parametrize("style", STYLES)


@BOTH_STYLES
async def test_a_document_becomes_searchable(stage: StorageStage, style: Style) -> None:
    chat_id = await stage.new_chat()
    attachment = await stage.uploaded(chat_id, style=style)
    await stage.indexer().index(job_of(attachment))
    assert (await stage.now(attachment)).status == "ready"
    store = await stage.store_of(chat_id)
    assert store is not None
    assert (store.provider, store.file_count) == (BACKENDS[style], 1)
    _, [held] = await stage.held()
    assert held["id"] == store.vector_store_id
    [file] = held["files"]
    assert (file["id"], file["attributes"]) == (attachment.provider_file_id, {"attachment_id": str(attachment.id)})


@BOTH_STYLES
async def test_concurrent_first_uploads_create_one_vector_store(stage: StorageStage, style: Style) -> None:
    """Ten documents of a new chat at ten workers, while the provider takes its time with the store."""
    await stage.script(storage="vector_store_create", delay_ms=250, times=None)
    chat_id = await stage.new_chat()
    attachments = [await stage.uploaded(chat_id, style=style) for _ in range(10)]
    async with asyncio.TaskGroup() as tasks:
        for attachment in attachments:
            tasks.create_task(stage.indexer().index(job_of(attachment)))
    assert {(await stage.now(attachment)).status for attachment in attachments} == {"ready"}
    assert await stage.calls("POST", "/vector_stores") == 1
    _, [held] = await stage.held()
    assert {file["id"] for file in held["files"]} == {attachment.provider_file_id for attachment in attachments}


@pytest.mark.parametrize("call", ["vector_store_create", "vector_store_add"])
async def test_a_failure_that_passes_is_tried_again(stage: StorageStage, call: str) -> None:
    await stage.script(storage=call, http_status=500, times=2)
    attachment = await stage.uploaded(await stage.new_chat())
    await stage.indexer().index(job_of(attachment))
    assert (await stage.now(attachment)).status == "ready"
    assert _counted(stage, "retry") == 2
    assert _counted(stage, "ok") == 1


@BOTH_STYLES
@pytest.mark.parametrize(
    ("call", "error_code"),
    [("vector_store_create", "vector_store_failed"), ("vector_store_add", "indexing_failed")],
)
async def test_three_failures_are_the_end_and_the_file_is_deleted(
    stage: StorageStage, style: Style, call: str, error_code: str
) -> None:
    await stage.script(storage=call, http_status=500, times=None)
    chat_id = await stage.new_chat()
    attachment = await stage.uploaded(chat_id, style=style)
    await stage.indexer().index(job_of(attachment))
    now = await stage.now(attachment)
    assert (now.status, now.error_code, now.cleanup_status) == ("failed", error_code, "done")
    files, stores = await stage.held()
    assert files == []
    assert len(stores) == int(call == "vector_store_add")
    assert _counted(stage, "failed") == 1
    if call == "vector_store_create":
        assert await stage.store_of(chat_id) is None


async def test_a_store_of_another_backend_is_the_end_at_once(stage: StorageStage) -> None:
    chat_id = await stage.new_chat()
    await stage.indexer().index(job_of(await stage.uploaded(chat_id, style="openai")))
    other = await stage.uploaded(chat_id, style="azure")
    await stage.indexer().index(job_of(other))
    now = await stage.now(other)
    assert (now.status, now.error_code) == ("failed", "vector_store_failed")
    assert len((await stage.held())[0]) == 1
    assert _counted(stage, "retry") == 0


async def test_a_backend_that_is_not_configured_is_a_failure(stage: StorageStage) -> None:
    attachment = await stage.uploaded(await stage.new_chat())
    await stage.change(attachment, storage_backend="gone")
    await stage.indexer().index(job_of(attachment))
    assert (await stage.now(attachment)).error_code == "vector_store_failed"


@pytest.mark.parametrize(("status", "looks"), [("in_progress", 3), ("completed", 0), ("whatever", 0), (None, 0)])
async def test_only_a_file_in_progress_is_waited_for(
    stage: StorageStage, status: str | None, looks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_module, "backoff", lambda **_: iter([0.01] * 10))
    await stage.script(storage="vector_store_add", answer={"status": status})
    await stage.script(storage="vector_store_file", answer={"status": "in_progress"}, times=2)
    attachment = await stage.uploaded(await stage.new_chat())
    await stage.indexer().index(job_of(attachment))
    assert (await stage.now(attachment)).status == "ready"
    assert await stage.calls("GET", f"/vector_stores/[^/]+/files/{attachment.provider_file_id}") == looks


async def test_a_file_whose_progress_cannot_be_seen_is_taken(
    stage: StorageStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_module, "backoff", lambda **_: iter([0.01] * 10))
    await stage.script(storage="vector_store_add", answer={"status": "in_progress"})
    await stage.script(storage="vector_store_file", http_status=500)
    attachment = await stage.uploaded(await stage.new_chat())
    await stage.indexer().index(job_of(attachment))
    assert (await stage.now(attachment)).status == "ready"


@pytest.mark.parametrize(
    "columns", [{"attachment_kind": "image"}, {"for_file_search": False, "for_code_interpreter": True}]
)
async def test_what_is_not_for_search_is_ready_without_a_store(stage: StorageStage, columns: dict[str, Any]) -> None:
    attachment = await stage.uploaded(await stage.new_chat(), **columns)
    await stage.indexer().index(job_of(attachment))
    assert (await stage.now(attachment)).status == "ready"
    assert (await stage.held())[1] == []


@BOTH_STYLES
@pytest.mark.parametrize("deleted", ["attachment", "chat"])
async def test_a_deletion_while_the_file_is_added_leaves_nothing(
    stage: StorageStage, style: Style, deleted: str
) -> None:
    """The compare-and-set finds the row deleted, and what was added is taken back."""
    await stage.script(storage="vector_store_add", delay_ms=200)
    attachment = await stage.uploaded(await stage.new_chat(), style=style)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(stage.indexer().index(job_of(attachment)))
        await wait_until(lambda: stage.calls("POST", "/vector_stores/[^/]+/files"))
        if deleted == "attachment":
            await stage.change(attachment, deleted_at=func.now())
        else:
            await stage.change(attachment, cleanup_status="pending")
    files, [store] = await stage.held()
    assert files == []
    assert store["files"] == []
    assert (await stage.now(attachment)).status == "uploaded"


async def test_a_deleted_chat_gets_no_vector_store(stage: StorageStage) -> None:
    """Not even between the look at the attachment and the claim of the store."""
    chat_id = await stage.new_chat()
    attachment = await stage.uploaded(chat_id)
    async with stage.sessions.begin() as session:
        await session.execute(update(Chat).where(Chat.id == chat_id).values(deleted_at=func.now()))
    await stage.indexer().index(job_of(attachment))
    assert (await stage.held())[1] == []
    assert await stage.store_of(chat_id) is None


async def test_two_workers_with_one_job_make_one_ready_attachment(stage: StorageStage) -> None:
    chat_id = await stage.new_chat()
    attachment = await stage.uploaded(chat_id)
    await stage.script(storage="vector_store_add", delay_ms=100, times=2)
    async with asyncio.TaskGroup() as tasks:
        for _ in range(2):
            tasks.create_task(stage.indexer().index(job_of(attachment)))
    assert (await stage.now(attachment)).status == "ready"
    [file], [store] = await stage.held()
    assert [held["id"] for held in store["files"]] == [file["id"]]
    row = await stage.store_of(chat_id)
    assert row is not None
    assert row.file_count == 1


def _counted(stage: StorageStage, result: str) -> float:
    return stage.metrics.registry.get_sample_value("test_attachment_index_total", {"result": result}) or 0

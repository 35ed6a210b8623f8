"""What becomes of uploads whose process has died or whose job was lost, step by step."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, text

from shared.attachments.tables import Attachment
from shared.clock import SystemClock
from shared.providers.storage import ProviderStorage
from shared.queue.queue import JobQueue
from shared.settings import RedisSettings, Settings
from shared.valkey.client import open_valkey
from tests.support.killing import KilledAt, KilledError
from tests.support.storage_stage import STYLES, StorageStage, Style, job_of
from tests.support.waiting import wait_until
from worker.attachments import index as index_module
from worker.attachments.stuck import StuckUploads

pytestmark = [
    pytest.mark.usefixtures("what_the_dead_have_opened"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

BOTH_STYLES = pytest.mark.parametrize("style", STYLES)
NOT_YET = timedelta(minutes=14)
TOO_LONG = timedelta(minutes=16)
A_MOMENT = timedelta(seconds=61)


@pytest.fixture
async def queue(valkey_url: str) -> AsyncIterator[JobQueue]:
    async with open_valkey(RedisSettings.model_validate({"url": valkey_url})) as valkey:
        await valkey.flushdb()
        yield JobQueue(valkey, Settings())


@pytest.fixture
def stuck(stage: StorageStage, queue: JobQueue) -> StuckUploads:
    return StuckUploads(
        sessions=stage.sessions,
        storages=stage.storages,
        failed=stage.failed,
        queue=queue,
        metrics=stage.metrics,
        clock=SystemClock(),
    )


async def end_of(stage: StorageStage, attachment: Attachment) -> tuple[str, str | None]:
    now = await stage.now(attachment)
    return now.status, now.error_code


@BOTH_STYLES
@pytest.mark.parametrize(
    "deletion", [{}, {"deleted_at": func.now()}, {"cleanup_status": "done"}], ids=["live", "deleted", "chat deleted"]
)
async def test_an_upload_that_never_ended_loses_its_file(
    stage: StorageStage, stuck: StuckUploads, style: Style, deletion: dict[str, Any]
) -> None:
    """The file is found by its name, also if attachment or chat are deleted: nobody else knows of it."""
    chat_id = await stage.new_chat()
    dead = await stage.uploaded(chat_id, style=style, age=TOO_LONG, status="pending")
    young = await stage.uploaded(chat_id, style=style, age=NOT_YET, status="pending")
    await stage.change(dead, provider_file_id=None, **deletion)
    await stage.change(young, provider_file_id=None)
    await stuck.run()
    assert await end_of(stage, dead) == ("failed", "upload_failed")
    assert await end_of(stage, young) == ("pending", None)
    assert [file["filename"].split("_")[1].split(".")[0] for file in (await stage.held())[0]] == [str(young.id)]


async def test_an_upload_is_left_alone_while_its_provider_cannot_be_searched(
    stage: StorageStage, stuck: StuckUploads
) -> None:
    """Nor does one provider keep the uploads of others."""
    chat_id = await stage.new_chat()
    dead = await stage.uploaded(chat_id, age=TOO_LONG, status="pending")
    await stage.change(dead, provider_file_id=None)
    gone = await stage.uploaded(chat_id, age=TOO_LONG, status="pending", is_sent=False)
    await stage.change(gone, storage_backend="gone")
    await stage.script(storage="file_list", http_status=500)
    await stuck.run()
    assert await end_of(stage, dead) == ("pending", None)
    await stage.change(dead, updated_at=func.now() - A_MOMENT)
    await stuck.run()
    assert await end_of(stage, dead) == ("failed", "upload_failed")
    assert await end_of(stage, gone) == ("pending", None)
    assert (await stage.held())[0] == []


async def test_a_failed_upload_whose_answer_was_lost_is_searched_for_once(
    stage: StorageStage, stuck: StuckUploads
) -> None:
    lost = await stage.uploaded(await stage.new_chat(), age=A_MOMENT, status="failed", error_code="upload_failed")
    await stage.change(lost, provider_file_id=None)
    await stuck.run()
    await stuck.run()
    assert (await stage.held())[0] == []
    assert await stage.calls("GET", "/files") == 1


async def test_a_failed_upload_that_is_deleted_before_the_search_is_searched_for_all_the_same(
    stage: StorageStage, stuck: StuckUploads
) -> None:
    """Its own cleanup knew of no file. Nothing notes the search, so it ends with the time that a file may need."""
    chat_id = await stage.new_chat()
    lost = await stage.uploaded(chat_id, age=A_MOMENT, status="failed", error_code="upload_failed")
    deletion: dict[str, Any] = {"provider_file_id": None, "deleted_at": func.now(), "cleanup_status": "done"}
    await stage.change(lost, **deletion, cleanup_updated_at=func.now() - A_MOMENT)
    long_ago = await stage.uploaded(chat_id, age=TOO_LONG, status="failed", error_code="upload_failed")
    await stage.change(long_ago, **deletion, cleanup_updated_at=func.now() - TOO_LONG)
    await stuck.run()
    assert [str(long_ago.id) in file["filename"] for file in (await stage.held())[0]] == [True]
    assert (await stage.now(lost)).cleanup_status == "done"


async def test_what_a_failed_attachment_has_left_is_removed_later(stage: StorageStage, stuck: StuckUploads) -> None:
    """The provider was away when it failed."""
    attachment = await stage.uploaded(await stage.new_chat())
    await stage.script(storage="vector_store_add", http_status=500, times=3, has_effect=True)
    await stage.script(storage="vector_store_remove", http_status=500, times=None)
    await stage.indexer().index(job_of(attachment))
    assert (await stage.now(attachment)).cleanup_status is None
    await stage.forget_scripts()
    await stage.change(attachment, updated_at=func.now() - A_MOMENT)
    await stuck.run()
    files, [store] = await stage.held()
    assert (files, store["files"]) == ([], [])
    assert (await stage.now(attachment)).cleanup_status == "done"


async def test_an_upload_without_a_job_is_indexed_again(
    stage: StorageStage, stuck: StuckUploads, queue: JobQueue
) -> None:
    chat_id = await stage.new_chat()
    waiting = await stage.uploaded(chat_id, age=A_MOMENT)
    await stage.uploaded(chat_id)
    deleted = await stage.uploaded(chat_id, age=A_MOMENT)
    await stage.change(deleted, deleted_at=func.now())
    await stuck.run()
    await stuck.run()
    [job] = await queue.pick(at_most=10, in_progress_ms=1_000)
    name, kwargs = job.read()
    assert (job.job_id, name) == (job_of(waiting).job_id, "index_attachment")
    assert kwargs == job_of(waiting).to_kwargs()


@BOTH_STYLES
async def test_an_upload_that_is_never_indexed_fails(stage: StorageStage, stuck: StuckUploads, style: Style) -> None:
    overdue = await stage.uploaded(await stage.new_chat(), style=style, age=TOO_LONG)
    await stuck.run()
    assert await end_of(stage, overdue) == ("failed", "indexing_failed")
    assert (await stage.held())[0] == []


async def test_workers_who_look_at_the_same_time_ask_the_provider_once(
    stage: StorageStage, stuck: StuckUploads
) -> None:
    """And none holds a transaction while the provider takes its time."""
    chat_id = await stage.new_chat()
    dead = await stage.uploaded(chat_id, age=TOO_LONG, status="pending")
    await stage.change(dead, provider_file_id=None)
    failed = await stage.uploaded(chat_id, age=A_MOMENT, status="failed", error_code="indexing_failed")
    await stage.script(storage="file_list", delay_ms=500, times=None)
    await stage.script(storage="file_delete", delay_ms=500, times=None)
    async with asyncio.TaskGroup() as tasks:
        for _ in range(3):
            tasks.create_task(stuck.run())
        await wait_until(lambda: stage.calls("GET", "/files"))
        await wait_until(lambda: has_no_open_transaction(stage))
        assert await end_of(stage, dead) == ("pending", None)
        await wait_until(lambda: stage.calls("DELETE", f"/files/{failed.provider_file_id}"))
        await wait_until(lambda: has_no_open_transaction(stage))
        assert (await stage.now(failed)).cleanup_status is None
    assert await stage.calls("GET", "/files") == 1
    assert await stage.calls("DELETE", "/files/[^/]+") == 2
    assert await end_of(stage, dead) == ("failed", "upload_failed")
    assert (await stage.now(failed)).cleanup_status == "done"


async def has_no_open_transaction(stage: StorageStage) -> bool:
    """Whether none waits for its process to go on."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in%'"
    async with stage.sessions() as session:
        return not await session.scalar(text(waiting))


async def test_who_dies_over_what_it_has_claimed_is_followed_by_another(
    stage: StorageStage, stuck: StuckUploads, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = await stage.uploaded(await stage.new_chat(), age=A_MOMENT, status="failed", error_code="indexing_failed")
    with monkeypatch.context() as dying:
        _kill(dying, stage.storage(), "delete_file", "before")
        with pytest.raises(KilledError):
            await stuck.run()
    await stuck.run()
    assert (await stage.now(failed)).cleanup_status is None
    await stage.change(failed, updated_at=func.now() - A_MOMENT)
    await stuck.run()
    assert (await stage.now(failed)).cleanup_status == "done"


KILLED_IN = {
    "before the store is created": ("create_vector_store", "before"),
    "after the store was created": ("create_vector_store", "after"),
    "before the file is added": ("add_file", "before"),
    "after the file was added": ("add_file", "after"),
    "while the provider indexes": ("file_is_in_progress", "before"),
    "before the file of a failed one is deleted": ("delete_file", "before"),
    "after the file of a failed one was deleted": ("delete_file", "after"),
}


@pytest.mark.parametrize("point", KILLED_IN)
async def test_a_worker_killed_while_indexing_leaves_nothing_half_done(
    stage: StorageStage, stuck: StuckUploads, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever step it was killed at: the attachment becomes ready or failed, and no file is left without a row."""
    call, when = KILLED_IN[point]
    if call == "file_is_in_progress":
        await stage.script(storage="vector_store_add", answer={"status": "in_progress"})
    if call == "delete_file":
        await stage.script(storage="vector_store_add", http_status=500, times=3)
    chat_id = await stage.new_chat()
    attachment = await stage.uploaded(chat_id)
    with monkeypatch.context() as dying:
        _kill(dying, stage.storage(), call, when)
        with pytest.raises(KilledError):
            await stage.indexer().index(job_of(attachment))
    await recover(stage, stuck, attachment)


@pytest.mark.parametrize("is_refused", [False, True], ids=["becomes ready", "fails"])
async def test_a_worker_killed_at_any_wait_of_the_indexing_leaves_nothing_half_done(
    stage: StorageStage, stuck: StuckUploads, is_refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every single point where the job waits, the steps in the database included."""
    monkeypatch.setattr(index_module, "MAX_TRIES", 1)  # further ones are the same steps once more
    if is_refused:
        await stage.script(storage="vector_store_add", http_status=500, times=None)
    for step in range(1, 1_000):
        attachment = await stage.uploaded(await stage.new_chat())
        try:
            await KilledAt(stage.indexer().index(job_of(attachment)), step=step)
        except KilledError:
            await recover(stage, stuck, attachment)
        else:
            break
    assert step > 10
    assert (await stage.now(attachment)).status == ("failed" if is_refused else "ready")


async def recover(stage: StorageStage, stuck: StuckUploads, attachment: Attachment) -> None:
    """What happens in the minutes after a death, and what must be true then."""
    passes = 0
    while not _is_over(now := await stage.now(attachment)):
        passes += 1
        assert passes <= 4, now.status
        await _age(stage, attachment)
        await stuck.run()
        await stage.indexer().index(job_of(attachment))
    files = [file for file in (await stage.held())[0] if str(attachment.id) in file["filename"]]
    assert [file["id"] for file in files] == ([now.provider_file_id] if now.status == "ready" else [])


def _is_over(attachment: Attachment) -> bool:
    """The last thing that is done about a failed one is to note that its file is gone."""
    return attachment.status == "ready" or (attachment.status == "failed" and attachment.cleanup_status == "done")


async def _age(stage: StorageStage, attachment: Attachment) -> None:
    async with stage.sessions.begin() as session:
        await session.execute(
            text("UPDATE attachments SET updated_at = updated_at - interval '4 minutes' WHERE id = :id"),
            {"id": attachment.id},
        )
        await session.execute(
            text("UPDATE chat_vector_stores SET created_at = created_at - interval '4 minutes' WHERE chat_id = :id"),
            {"id": attachment.chat_id},
        )


def _kill(monkeypatch: pytest.MonkeyPatch, storage: ProviderStorage, call: str, when: str) -> None:
    """Have the process die right before or after a call of the provider."""
    original = getattr(storage, call)

    async def dying(*args: Any, **kwargs: Any) -> Any:
        if when == "after":
            await original(*args, **kwargs)
        raise KilledError

    monkeypatch.setattr(storage, call, dying)

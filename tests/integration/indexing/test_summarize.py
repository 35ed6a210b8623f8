"""Summaries of documents: when there is one, what it asks of the provider, and what it leaves in the database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from unittest.mock import AsyncMock

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from sqlalchemy import func, select

from shared.attachments.tables import Attachment
from shared.clock import SystemClock
from shared.ids import first_uuid7
from shared.outbox.tables import OutboxMessage
from shared.providers.client import ProviderClients
from shared.queue.jobs import SummarizeDocument
from shared.queue.queue import JobQueue
from shared.settings import RedisSettings, Settings
from shared.turns.lifecycle import TokenUsage
from shared.valkey.client import open_valkey
from tests.support.catalogs import NANO, PREMIUM, STANDARD, acceptance_catalog
from tests.support.conversations import Answer, AnsweringProvider, OneProvider
from tests.support.finalizers import catalog_in_force
from tests.support.storage_stage import StorageStage, job_of
from worker.attachments.stuck import StuckUploads
from worker.attachments.summarize import DocumentSummarizer
from worker.providers.base import ProviderError
from worker.providers.registry import ProviderRegistry

FAILED = ProviderError("provider_error", "no")
SOME_TIME = timedelta(minutes=6)


@pytest.fixture
async def queue(valkey_url: str) -> AsyncIterator[JobQueue]:
    async with open_valkey(RedisSettings.model_validate({"url": valkey_url})) as valkey:
        await valkey.flushdb()
        yield JobQueue(valkey, Settings())


def a_summarizer(
    stage: StorageStage,
    queue: JobQueue,
    providers: ProviderRegistry,
    *,
    model_id: str = "",
    tree: dict[str, Any] | None = None,
) -> DocumentSummarizer:
    return DocumentSummarizer(
        settings=Settings.model_validate({"doc_summary": {"enabled": True, "model_id": model_id}}),
        sessions=stage.sessions,
        providers=providers,
        catalog=catalog_in_force(tree),
        queue=queue,
        clock=SystemClock(),
        metrics=stage.metrics,
        first_pause_secs=0.01,
    )


def answering(
    stage: StorageStage, queue: JobQueue, *answers: Answer, **members: Any
) -> tuple[DocumentSummarizer, AnsweringProvider]:
    provider = AnsweringProvider(*answers, usage=TokenUsage(7, 3))
    return a_summarizer(stage, queue, OneProvider(provider), **members), provider


async def a_document(stage: StorageStage) -> Attachment:
    attachment = await stage.uploaded(await stage.new_chat())
    await stage.indexer().index(job_of(attachment))
    return attachment


async def scheduled(summarizer: DocumentSummarizer, attachment: Attachment) -> SummarizeDocument:
    """The job that a worker would take from the queue."""
    await summarizer.schedule(attachment)
    [job] = await summarizer.queue.pick(at_most=10, in_progress_ms=1_000)
    name, kwargs = job.read()
    assert (job.job_id, name) == (f"summarize:{attachment.id}", "summarize_document")
    made = SummarizeDocument(
        attachment.tenant_id, attachment.chat_id, attachment.id, type(attachment.id)(kwargs["system_request_id"])
    )
    assert made.to_kwargs() == kwargs
    return made


async def usage_events(stage: StorageStage) -> list[dict[str, Any]]:
    async with stage.sessions() as session:
        return list(await session.scalars(select(OutboxMessage.payload)))


def counted(stage: StorageStage, result: str) -> float:
    return stage.metrics.registry.get_sample_value("test_attachment_summary_total", {"result": result}) or 0


async def test_a_document_is_summarized_by_its_chats_model(stage: StorageStage, queue: JobQueue) -> None:
    """Over HTTP: one request that is not streamed, with file search in this one document."""
    attachment = await a_document(stage)
    tree = acceptance_catalog(provider_port=stage.port)
    catalog = catalog_in_force(tree)
    clients = ProviderClients(catalog.loaded.providers)
    providers = ProviderRegistry(clients, stage.metrics)
    summarizer = a_summarizer(stage, queue, providers, tree=tree)
    job = await scheduled(summarizer, attachment)
    await summarizer.summarize(job)
    await providers.aclose()
    await clients.aclose()

    now = await stage.now(attachment)
    assert now.doc_summary is not None
    assert "notes.txt" in now.doc_summary
    assert now.summary_model == STANDARD
    assert now.summary_updated_at is not None
    store = await stage.store_of(attachment.chat_id)
    assert store is not None
    [request] = await stage.requests("/v1/responses")
    body = request["body"]
    assert body["stream"] is False
    assert body["user"] == f"{stage.tenant_id}:system"
    assert (body["metadata"]["request_type"], body["metadata"]["feature"]) == ("doc_summary", "file_search")
    [tool] = body["tools"]
    assert (tool["type"], tool["vector_store_ids"], tool["max_num_results"]) == (
        "file_search",
        [store.vector_store_id],
        10,
    )
    assert tool["filters"] == {"type": "eq", "key": "attachment_id", "value": str(attachment.id)}
    [event] = await usage_events(stage)
    assert event["dedupe_key"] == (f"{stage.tenant_id.hex}/doc_summary_generation/{job.system_request_id.hex}")
    assert (event["requester_type"], event["system_task_type"]) == ("system", "doc_summary_generation")
    assert event["usage"]["input_tokens"] > 0


NEVER_SUMMARIZED: dict[str, dict[str, Any]] = {
    "image": {"attachment_kind": "image", "for_file_search": False},
    "spreadsheet": {"for_file_search": False, "for_code_interpreter": True},
    "failed": {"status": "failed"},
    "deleted": {"deleted_at": func.now()},
    "chat deleted": {"cleanup_status": "pending"},
    "summarized": {"doc_summary": "there is one"},
}


@pytest.mark.parametrize("columns", NEVER_SUMMARIZED.values(), ids=NEVER_SUMMARIZED)
async def test_what_gets_no_summary(stage: StorageStage, queue: JobQueue, columns: dict[str, Any]) -> None:
    attachment = await a_document(stage)
    await stage.change(attachment, **columns)
    summarizer, provider = answering(stage, queue, "A note.")
    await summarizer.summarize(await scheduled(summarizer, attachment))
    assert provider.requests == []
    assert (await stage.now(attachment)).doc_summary == columns.get("doc_summary")


async def test_a_failure_that_passes_is_tried_again(stage: StorageStage, queue: JobQueue) -> None:
    attachment = await a_document(stage)
    summarizer, provider = answering(stage, queue, FAILED, "  ", " A note.\n")
    await summarizer.summarize(await scheduled(summarizer, attachment))
    assert (await stage.now(attachment)).doc_summary == "A note."
    assert [counted(stage, result) for result in ("provider_error", "empty_summary", "ok")] == [1, 1, 1]
    assert len(provider.requests) == 3


async def test_a_document_goes_without_a_summary_that_fails_three_times(stage: StorageStage, queue: JobQueue) -> None:
    attachment = await a_document(stage)
    summarizer, provider = answering(stage, queue, ProviderError("provider_timeout", "late"))
    await summarizer.summarize(await scheduled(summarizer, attachment))
    now = await stage.now(attachment)
    assert (now.status, now.doc_summary) == ("ready", None)
    assert (len(provider.requests), counted(stage, "timeout")) == (3, 3)
    assert await usage_events(stage) == []


async def test_one_job_at_two_workers_makes_one_summary_and_one_usage_event(
    stage: StorageStage, queue: JobQueue
) -> None:
    attachment = await a_document(stage)
    summarizer, _ = answering(stage, queue, "A note.")
    job = await scheduled(summarizer, attachment)
    async with asyncio.TaskGroup() as tasks:
        for _ in range(2):
            tasks.create_task(summarizer.summarize(job))
    await summarizer.summarize(job)
    assert len(await usage_events(stage)) == 1
    assert counted(stage, "ok") == 1


async def test_a_deletion_meanwhile_is_not_undone(stage: StorageStage, queue: JobQueue) -> None:
    attachment = await a_document(stage)

    class Deleting(AnsweringProvider):
        async def complete(self, *args: Any, **kwargs: Any) -> Any:
            await stage.change(attachment, deleted_at=func.now())
            return await super().complete(*args, **kwargs)

    summarizer = a_summarizer(stage, queue, OneProvider(Deleting("A note.")))
    await summarizer.summarize(await scheduled(summarizer, attachment))
    assert (await stage.now(attachment)).doc_summary is None
    assert (await usage_events(stage), counted(stage, "gone")) == ([], 1)


@pytest.mark.parametrize(
    ("model_id", "used"),
    [("gpt-5-mini", "gpt-5-mini"), ("unknown", STANDARD), (PREMIUM, STANDARD), (NANO, STANDARD)],
    ids=["the configured one", "unknown", "at another provider", "without file search"],
)
async def test_which_model_reads_a_document(stage: StorageStage, queue: JobQueue, model_id: str, used: str) -> None:
    attachment = await a_document(stage)
    summarizer, provider = answering(stage, queue, "A note.", model_id=model_id)
    await summarizer.summarize(await scheduled(summarizer, attachment))
    assert [request.model.id for request in provider.requests] == [used]


async def test_without_file_search_nothing_is_asked(stage: StorageStage, queue: JobQueue) -> None:
    attachment = await a_document(stage)
    tree = {**acceptance_catalog(), "kill_switches": {"disable_file_search": True}}
    summarizer, provider = answering(stage, queue, "A note.", tree=tree)
    await summarizer.summarize(await scheduled(summarizer, attachment))
    assert (provider.requests, counted(stage, "skipped")) == ([], 1)


@pytest.fixture
def summarizer(stage: StorageStage, queue: JobQueue) -> DocumentSummarizer:
    return answering(stage, queue, FAILED)[0]


@pytest.fixture
def stuck(stage: StorageStage, summarizer: DocumentSummarizer) -> StuckUploads:
    return StuckUploads(
        sessions=stage.sessions,
        storages=stage.storages,
        failed=stage.failed,
        queue=summarizer.queue,
        metrics=stage.metrics,
        clock=SystemClock(),
        summarize=summarizer.schedule,
    )


async def test_a_summary_whose_job_was_lost_is_asked_for_again(
    stage: StorageStage, summarizer: DocumentSummarizer, stuck: StuckUploads, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under the same id, so that there is one usage event whatever becomes of either job."""
    attachment = await a_document(stage)
    job = await scheduled(summarizer, attachment)
    await summarizer.queue.finish(job.job_id)
    with monkeypatch.context() as valkey_away:
        valkey_away.setattr(JobQueue, "enqueue", AsyncMock(side_effect=RedisConnectionError))
        await summarizer.schedule(attachment)
    await stuck.run()
    assert await summarizer.queue.pick(at_most=10, in_progress_ms=1_000) == []
    await stage.change(attachment, updated_at=func.now() - SOME_TIME)
    await stuck.run()
    await stuck.run()
    [again] = await summarizer.queue.pick(at_most=10, in_progress_ms=1_000)
    assert again.job_id == job.job_id
    assert again.read()[1] == job.to_kwargs()


@pytest.mark.parametrize(
    "columns",
    [
        *NEVER_SUMMARIZED.values(),
        {"updated_at": func.now() - timedelta(minutes=16)},
        {"id": first_uuid7(SystemClock().now() - timedelta(hours=2))},
    ],
    ids=[*NEVER_SUMMARIZED, "ready for long", "old"],
)
async def test_whose_summary_is_not_asked_for_again(
    stage: StorageStage, summarizer: DocumentSummarizer, stuck: StuckUploads, columns: dict[str, Any]
) -> None:
    attachment = await a_document(stage)
    await stage.change(attachment, **({"updated_at": func.now() - SOME_TIME} | columns))
    await stuck.run()
    assert await summarizer.queue.pick(at_most=10, in_progress_ms=1_000) == []


async def test_a_summary_that_failed_is_not_taken_for_a_lost_one(
    stage: StorageStage, summarizer: DocumentSummarizer, stuck: StuckUploads
) -> None:
    attachment = await a_document(stage)
    job = await scheduled(summarizer, attachment)
    await summarizer.summarize(job)
    await summarizer.queue.finish(job.job_id)
    await stage.change(attachment, updated_at=func.now() - SOME_TIME)
    await stuck.run()
    assert await summarizer.queue.pick(at_most=10, in_progress_ms=1_000) == []
    now = await stage.now(attachment)
    assert (now.doc_summary, now.summary_updated_at, now.summary_model) == (None, None, STANDARD)

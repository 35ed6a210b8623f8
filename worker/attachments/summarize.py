"""Writes a few sentences about a searchable document, for its chat's later turns and for its user.

The model reads the document by file search in the chat's vector store, so it must be one that can, at the provider that
has the file. The commit is a compare-and-set: however often the job comes, a document gets one summary, and one usage
event tells of it. Off unless `doc_summary.enabled`. A document whose summary fails goes without one, and its row names
the model all the same; one whose job was lost is found by `StuckUploads`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final
from uuid import UUID, uuid5

from sqlalchemy import ColumnElement, and_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from shared.attachments.tables import Attachment, ChatVectorStore
from shared.backoff import backoff
from shared.chats.tables import Chat
from shared.clock import Clock
from shared.db.engine import Sessions
from shared.db.transaction import run_transaction
from shared.logs import log_fields
from shared.metrics import Metrics
from shared.model_catalog.catalog import Catalog, CatalogModel
from shared.model_catalog.holder import CatalogHolder
from shared.outbox import messages as outbox
from shared.providers.storage import backend_of
from shared.queue.jobs import SummarizeDocument
from shared.queue.queue import JobQueue
from shared.settings import Settings
from shared.trace import current_traceparent
from shared.turns.context import PlannedMessage
from shared.turns.lifecycle import TokenUsage
from shared.turns.tools import AvailableFiles, IncludedTools, include_tools
from shared.valkey.client import REDIS_FAILURE
from worker.providers.base import GenerationRequest, ProviderError
from worker.providers.registry import ProviderRegistry
from worker.summaries.asking import ask, models_for
from worker.turns.files import ChatFiles
from worker.turns.tool_requests import tool_requests

logger = logging.getLogger(__name__)

SUMMARIZER: Final = "document_summarizer"
"""Where arq's untyped context holds the summarizer."""
MAX_TRIES: Final = 3
INSTRUCTIONS: Final = (
    "You describe documents. Look into the document with file search, then say in at most five sentences what it is,"
    " what it covers and what can be learned from it. Invent nothing. Answer with the description alone."
)


@dataclass(frozen=True, slots=True)
class _Task:
    """What the model is to be asked, as it was read."""

    filename: str
    backend: str
    owner_id: UUID
    vector_store_id: str
    chat_model: str


async def summarize_document(
    ctx: dict[str, Any],
    *,
    tenant_id: str,
    chat_id: str,
    attachment_id: str,
    system_request_id: str,
    **_future: Any,
) -> None:
    """The queue's entry point. Members that a newer release adds to the payload are ignored."""
    summarizer: DocumentSummarizer = ctx[SUMMARIZER]
    with log_fields(tenant_id=tenant_id, chat_id=chat_id, requester_type="system", processing_stage="summarize"):
        await summarizer.summarize(
            SummarizeDocument(UUID(tenant_id), UUID(chat_id), UUID(attachment_id), UUID(system_request_id))
        )


@dataclass(frozen=True)
class DocumentSummarizer:
    settings: Settings
    sessions: Sessions
    providers: ProviderRegistry
    catalog: CatalogHolder
    queue: JobQueue
    clock: Clock
    metrics: Metrics
    first_pause_secs: float = 1.0
    """Before the second try."""

    async def schedule(self, attachment: Attachment) -> None:
        """Have a document that is ready summarized. Without Valkey it is left to `StuckUploads`."""
        job = SummarizeDocument(
            attachment.tenant_id,
            attachment.chat_id,
            attachment.id,
            system_request_id=uuid5(attachment.id, "doc_summary"),
            traceparent=current_traceparent(),
        )
        try:
            await self.queue.enqueue(job)
        except REDIS_FAILURE as error:
            logger.warning("a document is not summarized yet: %r", error)

    async def summarize(self, job: SummarizeDocument) -> None:
        """Give the document its summary, unless it has one, is gone, or no model can read it."""
        async with self.sessions() as session:
            task = await _find_task(session, job)
        if task is None:
            return
        catalog = self.catalog.current
        model = next((model for model in self._models(catalog, task) if _can_read(model, catalog, task)), None)
        if model is None:
            self._count("skipped")
            return
        text, usage = await self._ask(_generation(job, task, model, catalog))
        if not text:
            await self._note_failure(job, model)
            return
        is_committed = await run_transaction(
            self.sessions, lambda session: self._commit(session, job, model, text, usage)
        )
        self._count("ok" if is_committed else "gone")

    def _models(self, catalog: Catalog, task: _Task) -> Iterator[CatalogModel]:
        return models_for(catalog, wanted=self.settings.doc_summary.model_id, chat_model=task.chat_model)

    async def _ask(self, generation: GenerationRequest) -> tuple[str, TokenUsage | None]:
        """The summary and what it has used; an empty one after the last try that failed."""
        pauses = backoff(first=self.first_pause_secs, longest=8 * self.first_pause_secs)
        for tries_left in range(MAX_TRIES - 1, -1, -1):
            try:
                completion = await ask(generation, providers=self.providers, metrics=self.metrics)
            except ProviderError as error:
                self._count("timeout" if error.code == "provider_timeout" else "provider_error")
                logger.warning("a document was not summarized: %s", error)
            else:
                if text := completion.text.strip():
                    return text, completion.usage
                self._count("empty_summary")
            if tries_left:
                await asyncio.sleep(next(pauses))
        return "", None

    async def _note_failure(self, job: SummarizeDocument, model: CatalogModel) -> None:
        """So that nobody takes the job for a lost one."""
        async with self.sessions.begin() as session:
            await session.execute(update(Attachment).where(_wants_summary(job)).values(summary_model=model.id))

    async def _commit(
        self, session: AsyncSession, job: SummarizeDocument, model: CatalogModel, text: str, usage: TokenUsage | None
    ) -> bool:
        now = self.clock.now()
        written = (
            update(Attachment)
            .where(_wants_summary(job))
            .values(doc_summary=text, summary_model=model.id, summary_updated_at=now, updated_at=now)
        )
        if await session.scalar(written.returning(Attachment.id)) is None:
            return False
        session.add(
            outbox.system_usage(
                task="doc_summary_generation",
                tenant_id=job.tenant_id,
                chat_id=job.chat_id,
                system_request_id=job.system_request_id,
                model=model.id,
                policy_version=self.catalog.current.policy_version,
                usage=asdict(usage or TokenUsage()),
                at=now,
            )
        )
        return True

    def _count(self, result: str) -> None:
        self.metrics.attachment_summary.labels(result=result).inc()


async def _find_task(session: AsyncSession, job: SummarizeDocument) -> _Task | None:
    statement = (
        select(
            Attachment.filename,
            Attachment.storage_backend,
            Attachment.uploaded_by_user_id,
            ChatVectorStore.vector_store_id,
            Chat.model,
        )
        .join(Chat, Chat.id == Attachment.chat_id)
        .join(
            ChatVectorStore,
            and_(ChatVectorStore.chat_id == Attachment.chat_id, ChatVectorStore.tenant_id == Attachment.tenant_id),
        )
        .where(_wants_summary(job), Chat.deleted_at.is_(None))
    )
    row = (await session.execute(statement)).one_or_none()
    if row is None or row.vector_store_id is None:
        return None
    return _Task(row.filename, row.storage_backend, row.uploaded_by_user_id, row.vector_store_id, row.model)


def _wants_summary(job: SummarizeDocument) -> ColumnElement[bool]:
    return and_(
        Attachment.id == job.attachment_id,
        Attachment.chat_id == job.chat_id,
        Attachment.tenant_id == job.tenant_id,
        Attachment.status == "ready",
        Attachment.attachment_kind == "document",
        Attachment.for_file_search.is_(True),
        Attachment.deleted_at.is_(None),
        Attachment.cleanup_status.is_(None),
        Attachment.doc_summary.is_(None),
    )


def _can_read(model: CatalogModel, catalog: Catalog, task: _Task) -> bool:
    provider = catalog.provider_of(model)
    tools = include_tools(
        model=model,
        kind=provider.kind,
        kill_switches=catalog.kill_switches,
        is_web_search_wanted=False,
        files=AvailableFiles(has_documents=True, has_vector_store=True),
    )
    return tools.file_search and backend_of(model.provider_id, provider) == task.backend


def _generation(job: SummarizeDocument, task: _Task, model: CatalogModel, catalog: Catalog) -> GenerationRequest:
    [search] = tool_requests(
        IncludedTools(file_search=True),
        files=ChatFiles(vector_store_id=task.vector_store_id),
        model=model,
        search_context_size="low",
    )
    if catalog.provider_of(model).supports_file_search_filters:
        search = {**search, "filters": _only(job.attachment_id)}
    return GenerationRequest(
        model=model,
        instructions=INSTRUCTIONS,
        history=(PlannedMessage("user", f"Describe the document {task.filename}."),),
        max_output_tokens=model.max_output_tokens,
        tenant_id=job.tenant_id,
        user_id=task.owner_id,
        chat_id=job.chat_id,
        request_kind="doc_summary",
        tools=(search,),
    )


def _only(attachment_id: UUID) -> Mapping[str, str]:
    """The chat's other documents are in the same store."""
    return {"type": "eq", "key": "attachment_id", "value": str(attachment_id)}

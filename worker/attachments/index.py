"""Makes an uploaded document searchable: into its chat's vector store, then `ready`.

    uploaded -> vector store of the chat -> file in it -> ready
             \\-> three tries -> failed, file deleted

Every step may be repeated, by this job or by another worker at the same time: only the compare-and-sets on the row
decide, and whoever loses the last one takes back what it has added. What is not for search is simply `ready`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from shared.attachments.indexing import IndexingErrorCode, IndexingRepository
from shared.attachments.tables import Attachment
from shared.attachments.vector_stores import VectorStoreRepository
from shared.backoff import backoff
from shared.clock import Clock
from shared.db.engine import Sessions
from shared.ids import ChatId, TenantId
from shared.logs import log_fields
from shared.metrics import Metrics
from shared.providers.storage import ProviderStorage, ProviderStorages, StorageError
from shared.queue.jobs import IndexAttachment
from shared.trace import TraceContext, current_trace
from worker.attachments.failed import FailedAttachments
from worker.attachments.vector_store import ChatVectorStores, StoreOfAnotherBackendError, VectorStoreError

logger = logging.getLogger(__name__)

INDEXER: Final = "indexer"
"""Where arq's untyped context holds the indexer."""
MAX_TRIES: Final = 3
LONGEST_INDEXING_SECS: Final = 120.0
"""After that a file that is still in progress counts as done: the provider has taken it."""


class NotIndexedError(Exception):
    """This try has failed; `code` says in which step."""

    def __init__(self, code: IndexingErrorCode, cause: Exception, *, is_final: bool = False) -> None:
        super().__init__(f"{code}: {cause}")
        self.code: IndexingErrorCode = code
        self.is_final = is_final


async def index_attachment(
    ctx: dict[str, Any],
    *,
    tenant_id: str,
    chat_id: str,
    attachment_id: str,
    traceparent: str | None = None,
    **_future: Any,
) -> None:
    """The queue's entry point. Members that a newer release adds to the payload are ignored."""
    indexer: Indexer = ctx[INDEXER]
    trace = TraceContext.from_header(traceparent)
    current_trace.set(trace)
    with log_fields(trace_id=trace.trace_id, chat_id=chat_id, processing_stage="index"):
        await indexer.index(IndexAttachment(UUID(tenant_id), UUID(chat_id), UUID(attachment_id), traceparent))


@dataclass(frozen=True)
class Indexer:
    sessions: Sessions
    storages: ProviderStorages
    clock: Clock
    metrics: Metrics
    failed: FailedAttachments
    on_ready: Callable[[Attachment], Awaitable[None]] | None = None
    """Told of each document that this process has made searchable."""
    first_pause_secs: float = 5.0
    """Before the second try: all three together outlast the first pause of a circuit breaker."""

    async def index(self, job: IndexAttachment) -> None:
        """Bring the attachment to its end, unless it has come to it, or its user has deleted it."""
        pauses = backoff(first=self.first_pause_secs, longest=2 * self.first_pause_secs)
        for tries_left in range(MAX_TRIES - 1, -1, -1):
            attachment = await self._find(job)
            if attachment is None:
                return
            try:
                await self._try(attachment)
            except NotIndexedError as error:
                logger.warning("an attachment was not indexed: %s", error, extra={"attachment_id": str(attachment.id)})
                if error.is_final or tries_left == 0:
                    if await self.failed.fail(attachment, error.code):
                        self._count("failed")
                    return
                self._count("retry")
                await asyncio.sleep(next(pauses))
            else:
                return

    async def _find(self, job: IndexAttachment) -> Attachment | None:
        async with self.sessions() as session:
            return await IndexingRepository(session).find_uploaded(
                job.attachment_id, chat_id=ChatId(job.chat_id), tenant_id=TenantId(job.tenant_id)
            )

    async def _try(self, attachment: Attachment) -> None:
        if not attachment.for_file_search:
            await self._mark_ready(attachment)
            return
        if (file_id := attachment.provider_file_id) is None:
            raise NotIndexedError("indexing_failed", LookupError("the provider's file is unknown"), is_final=True)
        try:
            storage = self.storages.of_backend(attachment.storage_backend, attachment.tenant_id)
            vector_store_id = await ChatVectorStores(self.sessions).ensure(
                ChatId(attachment.chat_id), tenant_id=TenantId(attachment.tenant_id), storage=storage
            )
        except StoreOfAnotherBackendError as error:
            raise NotIndexedError("vector_store_failed", error, is_final=True) from error
        except (VectorStoreError, StorageError) as error:
            raise NotIndexedError("vector_store_failed", error) from error
        try:
            added = await storage.add_file(vector_store_id, file_id, attachment_id=attachment.id)
        except StorageError as error:
            raise NotIndexedError("indexing_failed", error) from error
        if added.is_in_progress:
            await _wait_for(storage, vector_store_id, file_id)
        if not await self._mark_ready(attachment):
            await self._take_back(attachment, storage, vector_store_id, file_id)

    async def _mark_ready(self, attachment: Attachment) -> bool:
        async with self.sessions.begin() as session:
            is_ready = await IndexingRepository(session).mark_ready(attachment)
            if is_ready and attachment.for_file_search:
                await VectorStoreRepository(session).count_file(
                    ChatId(attachment.chat_id), tenant_id=TenantId(attachment.tenant_id)
                )
        if is_ready and attachment.for_file_search:
            self._count("ok")
            elapsed = self.clock.now() - attachment.updated_at
            self.metrics.attachment_index_latency_ms.observe(max(elapsed.total_seconds(), 0) * 1000)
            if self.on_ready is not None:
                await self.on_ready(attachment)
        return is_ready

    async def _take_back(
        self, attachment: Attachment, storage: ProviderStorage, vector_store_id: str, file_id: str
    ) -> None:
        """It has come to its end meanwhile. Unless it is ready, the file must not stay where we have put it.

        Who deleted or failed it deletes the file, too, and tries for as long as it takes.
        """
        async with self.sessions() as session:
            if await IndexingRepository(session).is_ready(attachment):
                return
        try:
            await storage.remove_file(vector_store_id, file_id)
            await storage.delete_file(file_id)
        except StorageError as error:
            logger.warning("an indexed file that is no longer wanted is left to its cleanup: %s", error)

    def _count(self, result: str) -> None:
        self.metrics.attachment_index.labels(result=result).inc()


async def _wait_for(storage: ProviderStorage, vector_store_id: str, file_id: str) -> None:
    """Return when the provider no longer says that it is at it. The file is taken, so a failed look is no failure."""
    by = time.monotonic() + LONGEST_INDEXING_SECS
    for pause in backoff(first=0.2, longest=5.0):
        await asyncio.sleep(pause)
        try:
            if not await storage.file_is_in_progress(vector_store_id, file_id) or time.monotonic() >= by:
                return
        except StorageError as error:
            logger.info("the state of an indexed file is unknown: %s", error)
            return

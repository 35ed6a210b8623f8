"""Brings uploads to an end whose process has died, or whose job was lost.

    pending for long        their file, if the provider has one by their name, is deleted; then they have failed
    uploaded for a minute   their indexing is asked for once more
    uploaded for long       they have failed
    failed with a file      it is deleted; after a failed upload it is searched for by its name
    ready for some minutes  their summary, if documents have one, is asked for once more

Workers claim what they ask providers about, a minute long and without holding a transaction over it; nothing depends on
that, it spares the provider.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from shared.attachments.indexing import IndexingRepository
from shared.attachments.tables import Attachment
from shared.clock import Clock
from shared.db.engine import Sessions
from shared.metrics import Metrics
from shared.providers.storage import DOCUMENT_PURPOSE, ProviderStorage, ProviderStorages, StorageError
from shared.queue.jobs import IndexAttachment
from shared.queue.queue import JobQueue
from worker.attachments.failed import FailedAttachments

logger = logging.getLogger(__name__)

STUCK_INTERVAL: Final = timedelta(minutes=5)
BATCH: Final = 100
"""Of each kind in one pass."""


@dataclass(frozen=True)
class StuckUploads:
    sessions: Sessions
    storages: ProviderStorages
    failed: FailedAttachments
    queue: JobQueue
    metrics: Metrics
    clock: Clock
    summarize: Callable[[Attachment], Awaitable[None]] | None = None
    """Has a searchable document summarized; None if documents get no summaries."""

    async def run(self) -> None:
        """One pass; any number of processes may be at it. Raises what the database and Valkey raise."""
        async with self.sessions.begin() as session:
            stuck = IndexingRepository(session)
            never_uploaded = await stuck.claim_never_uploaded(limit=BATCH)
            unsearched = await stuck.claim_unsearched(limit=BATCH)
        await self._search([*never_uploaded, *unsearched])
        await self._remove()
        await self._index()
        if self.summarize is not None:
            await self._summarize(self.summarize)

    async def _remove(self) -> None:
        async with self.sessions.begin() as session:
            unremoved = await IndexingRepository(session).claim_unremoved(limit=BATCH)
        for attachment in unremoved:
            with _logging_failures("a failed attachment's file cannot be deleted"):
                await self.failed.remove_file(attachment)

    async def _index(self) -> None:
        async with self.sessions() as session:
            stuck = IndexingRepository(session)
            overdue, unindexed = await stuck.list_overdue(limit=BATCH), await stuck.list_unindexed(limit=BATCH)
        for attachment in overdue:
            if await self.failed.fail(attachment, "indexing_failed"):
                self.metrics.attachment_index.labels(result="failed").inc()
        for attachment in unindexed:
            await self.queue.enqueue(IndexAttachment(attachment.tenant_id, attachment.chat_id, attachment.id))

    async def _summarize(self, summarize: Callable[[Attachment], Awaitable[None]]) -> None:
        async with self.sessions() as session:
            unsummarized = await IndexingRepository(session).list_unsummarized(now=self.clock.now(), limit=BATCH)
        for attachment in unsummarized:
            await summarize(attachment)

    async def _search(self, attachments: Iterable[Attachment]) -> None:
        """Look for the files of attachments that know of none: one list for all that are of one purpose."""
        groups: dict[tuple[ProviderStorage, str], list[Attachment]] = defaultdict(list)
        for attachment in attachments:
            with _logging_failures("a stuck upload's provider is unknown"):
                storage = self.storages.of_backend(attachment.storage_backend, attachment.tenant_id)
                is_image = attachment.attachment_kind == "image"
                groups[storage, storage.image_purpose if is_image else DOCUMENT_PURPOSE].append(attachment)
        for (storage, purpose), group in groups.items():
            with _logging_failures("a provider cannot be searched for stuck uploads"):
                await _delete_files_of(group, storage, purpose)
                await self._end(group)

    async def _end(self, attachments: Iterable[Attachment]) -> None:
        """Nothing of them is left. An upload that ends just now finds its row failed, and deletes its file."""
        for attachment in attachments:
            async with self.sessions.begin() as session:
                repository = IndexingRepository(session)
                if attachment.status == "failed":
                    await repository.note_removed(attachment)
                elif await repository.give_up_upload(attachment):
                    logger.warning("a stuck upload was failed", extra={"attachment_id": str(attachment.id)})


async def _delete_files_of(attachments: Iterable[Attachment], storage: ProviderStorage, purpose: str) -> None:
    """Uploads name their files `{chat_id}_{attachment_id}` and an extension."""
    names = {f"{attachment.chat_id}_{attachment.id}" for attachment in attachments}
    found = [file.id async for file in storage.list_files(purpose=purpose) if file.filename.split(".")[0] in names]
    for file_id in found:
        await storage.delete_file(file_id)


@contextmanager
def _logging_failures(what: str) -> Iterator[None]:
    """One that cannot be dealt with now does not keep the others: the next pass tries again."""
    try:
        yield
    except StorageError as error:
        logger.warning("%s: %s", what, error)

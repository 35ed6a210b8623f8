"""Brings uploads to an end whose process has died, or whose job was lost.

    pending for long        their file, if the provider has one by their name, is deleted; then they have failed
    uploaded for a minute   their indexing is asked for once more
    uploaded for long       they have failed
    failed with a file      it is deleted; after a failed upload it is searched for by its name

One worker at a time, by an advisory lock that is held for the pass; nothing depends on it, it spares the provider.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from shared.attachments.indexing import IndexingRepository
from shared.attachments.tables import Attachment
from shared.db.alone import alone
from shared.db.engine import Sessions
from shared.metrics import Metrics
from shared.providers.storage import DOCUMENT_PURPOSE, ProviderStorage, ProviderStorages, StorageError
from shared.queue.jobs import IndexAttachment
from shared.queue.queue import TurnQueue
from worker.attachments.failed import FailedAttachments

logger = logging.getLogger(__name__)

STUCK_INTERVAL: Final = timedelta(minutes=5)
BATCH: Final = 100
"""Of each kind in one pass."""
# Any number will do, if it is ours.
STUCK_LOCK: Final = 7_243_910


@dataclass(frozen=True)
class StuckUploads:
    sessions: Sessions
    storages: ProviderStorages
    failed: FailedAttachments
    queue: TurnQueue
    metrics: Metrics

    async def run(self) -> None:
        """One pass, unless another process is at it. Raises what the database and Valkey raise."""
        async with alone(self.sessions, STUCK_LOCK) as session:
            if session is None:
                return
            stuck = IndexingRepository(session)
            await self._search(
                [*await stuck.list_never_uploaded(limit=BATCH), *await stuck.list_unsearched(limit=BATCH)]
            )
            for attachment in await stuck.list_unremoved(limit=BATCH):
                with _logging_failures("a failed attachment's file cannot be deleted"):
                    await self.failed.remove_file(attachment)
            for attachment in await stuck.list_overdue(limit=BATCH):
                if await self.failed.fail(attachment, "indexing_failed"):
                    self.metrics.attachment_index.labels(result="failed").inc()
            for attachment in await stuck.list_unindexed(limit=BATCH):
                await self.queue.enqueue(IndexAttachment(attachment.tenant_id, attachment.chat_id, attachment.id))

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

"""One try to remove an attachment's file, and what becomes of its row."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from shared.attachments.cleanup import CleanupRepository, FileToRemove
from shared.db.engine import Sessions
from shared.metrics import Metrics
from shared.providers.storage import StorageError
from worker.cleanup.removal import Removal

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FileCleanup:
    """Removes files on behalf of whoever has no more use for them."""

    sessions: Sessions
    removal: Removal
    metrics: Metrics
    max_attempts: int

    async def remove(self, file: FileToRemove, *, vector_store_id: str | None = None) -> str:
        """Its `cleanup_status` after this try: `done`, `pending` for another try, or `failed`: failures are counted."""
        try:
            await self.remove_or_raise(file, vector_store_id=vector_store_id)
        except StorageError as error:
            return await self._count_failure(file, error)
        return "done"

    async def remove_or_raise(self, file: FileToRemove, *, vector_store_id: str | None = None) -> None:
        """Remove it, and note that.

        No row lock is held while the provider is asked. A worker that dies in between leaves the row as it is, and the
        next try finds nothing at the provider.

        Raises:
            StorageError: something may be left; nothing notes that.
        """
        await self.removal.remove_file(file, vector_store_id=vector_store_id)
        async with self.sessions.begin() as session:
            is_mine = await CleanupRepository(session).mark_done(file)
        if is_mine and file.provider_file_id is not None:
            self.metrics.cleanup_completed.labels(resource_type="file").inc()

    async def _count_failure(self, file: FileToRemove, error: StorageError) -> str:
        async with self.sessions.begin() as session:
            status = await CleanupRepository(session).count_failure(
                file, error=str(error), max_attempts=self.max_attempts
            )
        if status == "failed":
            self.metrics.cleanup_failed.labels(resource_type="file").inc()
            logger.error(
                "a file is left at its provider, no further try is made",
                extra={"attachment_id": str(file.attachment_id), "reason": str(error)},
            )
            return status
        if status is not None:
            self.removal.count_retry("file", error)
        return "pending"

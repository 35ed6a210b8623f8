"""Fails attachments, and sees to it that nothing of a failed one is left at its provider."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from shared.attachments.cleanup import CleanupRepository
from shared.attachments.indexing import IndexingErrorCode, IndexingRepository
from shared.attachments.tables import Attachment
from shared.db.engine import Sessions
from shared.ids import ChatId, TenantId
from shared.providers.storage import StorageError
from worker.cleanup.files import FileCleanup

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FailedAttachments:
    """A provider that fails now is often why they have failed: unlike those of a deletion, the tries to remove their
    files are not counted, and never given up.
    """

    sessions: Sessions
    files: FileCleanup

    async def fail(self, attachment: Attachment, code: IndexingErrorCode) -> bool:
        """End a live, uploaded attachment as failed and delete its file; False if it has come to another end.

        A file that cannot be deleted now is tried again by `StuckUploads`, which finds the row.
        """
        async with self.sessions.begin() as session:
            if not await IndexingRepository(session).mark_failed(attachment, code):
                return False
        try:
            await self.remove_file(attachment)
        except StorageError as error:
            logger.warning(
                "the file of a failed attachment is left for now: %s",
                error,
                extra={"attachment_id": str(attachment.id)},
            )
        return True

    async def remove_file(self, attachment: Attachment) -> None:
        """Take the failed attachment's file out of the chat's vector store and delete it. Safe to repeat.

        Raises:
            StorageError: something may be left.
        """
        async with self.sessions() as session:
            found = await CleanupRepository(session).find_attachment(
                attachment.id, chat_id=ChatId(attachment.chat_id), tenant_id=TenantId(attachment.tenant_id)
            )
        if found is not None:
            await self.files.remove_or_raise(found.file, vector_store_id=found.vector_store_id)

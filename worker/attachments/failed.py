"""Fails attachments, and sees to it that nothing of a failed one is left at its provider."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from shared.attachments.indexing import IndexingErrorCode, IndexingRepository
from shared.attachments.tables import Attachment
from shared.attachments.vector_stores import VectorStoreRepository
from shared.db.engine import Sessions
from shared.ids import ChatId, TenantId
from shared.providers.storage import ProviderStorages, StorageError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FailedAttachments:
    sessions: Sessions
    storages: ProviderStorages

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
        file_id = attachment.provider_file_id
        if file_id is not None:
            async with self.sessions() as session:
                store = await VectorStoreRepository(session).find(
                    ChatId(attachment.chat_id), tenant_id=TenantId(attachment.tenant_id)
                )
            storage = self.storages.of_backend(attachment.storage_backend, attachment.tenant_id)
            if store is not None and store.vector_store_id is not None and store.provider == storage.backend:
                await storage.remove_file(store.vector_store_id, file_id)
            await storage.delete_file(file_id)
        async with self.sessions.begin() as session:
            await IndexingRepository(session).note_removed(attachment)

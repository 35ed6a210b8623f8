"""Removes what a deleted chat has left at its provider: its files, then its vector store.

    message -> chat deleted? -> each file that is pending -> none pending? -> vector store -> its row

Every step is repeatable and finds out by itself whether it is still due: the message may come twice, and a worker may
die anywhere. Who uploads, or makes the vector store, at the same time loses: the first compare-and-set of an upload, or
of a new store's id, does not find its row as it left it, and removes what it has brought to the provider.
"""

from __future__ import annotations

from dataclasses import dataclass

from shared.attachments.cleanup import CleanupRepository
from shared.attachments.tables import ChatVectorStore
from shared.db.engine import Sessions
from shared.metrics import Metrics
from shared.outbox import messages as outbox
from shared.outbox.repository import Message
from shared.providers.storage import StorageError
from worker.cleanup.files import FileCleanup
from worker.cleanup.removal import Removal
from worker.cleanup.requests import ChatCleanupRequest
from worker.outbox.handlers import RejectedMessageError


class FilesLeftError(Exception):
    """Some files could not be removed this time."""


@dataclass(frozen=True)
class ChatCleanup:
    """The outbox's handler of deleted chats. Whatever it raises asks for another delivery.

    A message ends as delivered only if nothing is left at the provider. Otherwise it becomes a dead letter, once all
    has been removed that could be.
    """

    sessions: Sessions
    files: FileCleanup
    removal: Removal
    metrics: Metrics
    max_attempts: int
    """Of a message whose handling fails by another fault than the provider's."""

    @property
    def queue(self) -> str:
        return outbox.CHAT_CLEANUP

    async def handle(self, message: Message) -> None:
        """Remove everything that is left.

        Raises:
            RejectedMessageError: the message makes no sense, or the tries of something are used up.
            FilesLeftError, StorageError: it is worth another try.
        """
        request = ChatCleanupRequest.parse(message.payload)
        async with self.sessions() as session:
            cleanup = CleanupRepository(session)
            if not await cleanup.is_chat_deleted(request.chat_id, tenant_id=request.tenant_id):
                raise RejectedMessageError("the chat is not deleted")
            pending_files = await cleanup.list_pending(request.chat_id, tenant_id=request.tenant_id)
        for file in pending_files:
            await self.files.remove(file)
        async with self.sessions() as session:
            pending, failed = await CleanupRepository(session).count_left(request.chat_id, tenant_id=request.tenant_id)
        if pending:
            raise FilesLeftError(f"{pending} files are not removed yet; their rows say why")
        await self._remove_vector_store(request, failures=message.attempts, failed_files=failed)
        if failed:
            raise RejectedMessageError(f"{failed} files could not be removed; their rows say why")

    async def _remove_vector_store(self, request: ChatCleanupRequest, *, failures: int, failed_files: int) -> None:
        while (store := await self._find_vector_store(request)) is not None:
            if store.vector_store_id is not None:
                try:
                    await self.removal.delete_vector_store(
                        store.vector_store_id, storage_backend=store.provider, tenant_id=store.tenant_id
                    )
                except StorageError as error:
                    if failures + 1 >= self.files.max_attempts:
                        raise RejectedMessageError(f"the vector store could not be removed: {error}") from None
                    self.removal.count_retry("vector_store", error)
                    raise
            async with self.sessions.begin() as session:
                is_gone = await CleanupRepository(session).drop_vector_store(store)
            if is_gone and store.vector_store_id is not None:
                self.metrics.cleanup_completed.labels(resource_type="vector_store").inc()
                if failed_files:
                    self.metrics.cleanup_vector_store_with_failed_attachments.inc()

    async def _find_vector_store(self, request: ChatCleanupRequest) -> ChatVectorStore | None:
        async with self.sessions() as session:
            return await CleanupRepository(session).find_vector_store(request.chat_id, tenant_id=request.tenant_id)

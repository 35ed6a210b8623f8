"""Removes what an attachment that is deleted, or that failed while it was uploaded, has left at its provider."""

from __future__ import annotations

from dataclasses import dataclass

from shared.attachments.cleanup import CleanupRepository
from shared.db.engine import Sessions
from shared.outbox import messages as outbox
from shared.outbox.repository import Message
from worker.cleanup.files import FileCleanup
from worker.cleanup.requests import AttachmentCleanupRequest
from worker.outbox.handlers import RejectedMessageError


class FileLeftError(Exception):
    """The file could not be removed this time."""


@dataclass(frozen=True)
class AttachmentCleanup:
    """The outbox's handler of such attachments. Whatever it raises asks for another delivery."""

    sessions: Sessions
    files: FileCleanup
    max_attempts: int
    """Of a message whose handling fails by another fault than the provider's."""

    @property
    def queue(self) -> str:
        return outbox.ATTACHMENT_CLEANUP

    async def handle(self, message: Message) -> None:
        """Remove the file, unless that has happened, or the cleanup of its chat sees to it.

        Raises:
            RejectedMessageError: the message makes no sense, or its tries are used up.
            FileLeftError: it is worth another try.
        """
        request = AttachmentCleanupRequest.parse(message.payload)
        async with self.sessions() as session:
            found = await CleanupRepository(session).find_attachment(
                request.attachment_id, chat_id=request.chat_id, tenant_id=request.tenant_id
            )
        if found is None or found.is_chat_deleted:
            return
        if found.is_in_use:
            raise RejectedMessageError("the attachment is neither deleted nor failed")
        status = found.cleanup_status
        if status not in ("done", "failed"):
            status = await self.files.remove(
                found.file, vector_store_id=found.vector_store_id or request.vector_store_id
            )
        if status == "failed":
            raise RejectedMessageError("the file could not be removed; its row says why")
        if status == "pending":
            raise FileLeftError("the file is not removed yet; its row says why")

"""Reading and deleting attachments. Each function is one transaction."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncSession

from api.auth import Principal
from shared.attachments.errors import AttachmentLockedError, AttachmentNotFoundError
from shared.attachments.repository import AttachmentRepository
from shared.attachments.tables import Attachment
from shared.attachments.vector_stores import VectorStoreRepository
from shared.chats.repository import ChatRepository
from shared.clock import Clock
from shared.db.engine import Sessions
from shared.db.transaction import run_transaction
from shared.errors import ForbiddenError
from shared.ids import AttachmentId, ChatId
from shared.metrics import Metrics
from shared.outbox.enqueue import enqueue
from shared.outbox.messages import attachment_deleted


async def get_attachment(
    principal: Principal, chat_id: ChatId, attachment_id: AttachmentId, *, sessions: Sessions
) -> Attachment:
    """
    Raises:
        ChatNotFoundError: absent, deleted or somebody else's.
        AttachmentNotFoundError: absent, deleted or of another chat.
    """
    async with sessions.begin() as session:
        await ChatRepository(session).get_owned(chat_id, tenant_id=principal.tenant_id, user_id=principal.user_id)
        attachment = await AttachmentRepository(session).get(
            attachment_id, chat_id=chat_id, tenant_id=principal.tenant_id
        )
    if attachment.deleted_at is not None:
        raise AttachmentNotFoundError
    return attachment


async def delete_attachment(
    principal: Principal,
    chat_id: ChatId,
    attachment_id: AttachmentId,
    *,
    sessions: Sessions,
    clock: Clock,
    metrics: Metrics,
) -> None:
    """Make the attachment invisible and hand its file to the cleanup; one that is deleted already stays so.

    Raises:
        ChatNotFoundError: absent, deleted or somebody else's.
        AttachmentNotFoundError: absent or of another chat.
        ForbiddenError: somebody else has uploaded it.
        AttachmentLockedError: a message refers to it.
    """
    tenant_id = principal.tenant_id

    async def delete(session: AsyncSession) -> None:
        # A send that attaches it locks the chat, too: whichever is second sees what the first has done.
        await ChatRepository(session).lock_owned(chat_id, tenant_id=tenant_id, user_id=principal.user_id)
        attachments = AttachmentRepository(session)
        found = await attachments.get(attachment_id, chat_id=chat_id, tenant_id=tenant_id)
        if found.uploaded_by_user_id != principal.user_id:
            raise ForbiddenError
        if found.deleted_at is not None:
            return
        now = clock.now()
        deleted = await attachments.delete_unreferenced(attachment_id, chat_id=chat_id, tenant_id=tenant_id, now=now)
        if deleted is None:
            raise AttachmentLockedError
        store = await VectorStoreRepository(session).find(chat_id, tenant_id=tenant_id)
        store_id = None if store is None else store.vector_store_id
        message = attachment_deleted(deleted, vector_store_id=store_id, deleted_at=now)
        await enqueue(session, [message], metrics=metrics)

    await run_transaction(sessions, delete)

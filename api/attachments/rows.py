"""The transactions of an upload: the row before the file is read, and what becomes of it. Each locks the chat first."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from api.attachments.incoming import Incoming
from api.attachments.thumbnails import Thumbnail
from api.auth import Principal
from api.context import ApiContext
from shared.attachments.errors import (
    AttachmentNotFoundError,
    DocumentLimitExceededError,
    ProviderMismatchError,
    StorageLimitExceededError,
)
from shared.attachments.repository import AttachmentRepository, UploadFailure
from shared.attachments.tables import Attachment
from shared.attachments.vector_stores import VectorStoreRepository
from shared.chats.errors import ChatNotFoundError
from shared.chats.repository import ChatRepository
from shared.db.transaction import run_transaction
from shared.outbox.enqueue import enqueue
from shared.outbox.messages import attachment_deleted, chat_cleanup
from shared.quotas.periods import period_start
from shared.quotas.repository import Account, QuotaRepository

logger = logging.getLogger(__name__)


async def insert_pending(
    incoming: Incoming, principal: Principal, context: ApiContext, *, max_bytes_per_chat: int
) -> None:
    """Until its size is known the row stands for as many bytes as its client has announced.

    Raises:
        ChatNotFoundError, DocumentLimitExceededError, StorageLimitExceededError, ProviderMismatchError
    """
    media = incoming.media

    async def insert(session: AsyncSession) -> None:
        await ChatRepository(session).lock_owned(
            incoming.chat_id, tenant_id=principal.tenant_id, user_id=principal.user_id
        )
        attachments = AttachmentRepository(session)
        held = await attachments.holdings_of(incoming.chat_id, tenant_id=principal.tenant_id)
        if media.kind == "document" and held.documents >= context.settings.rag.max_documents_per_chat:
            raise DocumentLimitExceededError
        if held.size_bytes + incoming.size_hint > max_bytes_per_chat:
            raise StorageLimitExceededError
        if media.for_file_search:
            store = await VectorStoreRepository(session).find(incoming.chat_id, tenant_id=principal.tenant_id)
            if store is not None and store.provider != incoming.storage.backend:
                raise ProviderMismatchError
        now = context.clock.now()
        attachments.add(
            Attachment(
                id=incoming.attachment_id,
                tenant_id=principal.tenant_id,
                chat_id=incoming.chat_id,
                uploaded_by_user_id=principal.user_id,
                filename=incoming.filename,
                content_type=media.content_type,
                size_bytes=incoming.size_hint,
                storage_backend=incoming.storage.backend,
                status="pending",
                attachment_kind=media.kind,
                for_file_search=media.for_file_search,
                for_code_interpreter=media.for_code_interpreter,
                created_at=now,
                updated_at=now,
            )
        )

    await run_transaction(context.sessions, insert)


async def keep(
    incoming: Incoming,
    principal: Principal,
    context: ApiContext,
    *,
    file_id: str,
    size_bytes: int,
    thumbnail: Thumbnail | None,
    max_bytes_per_chat: int,
) -> Attachment:
    """Have the row tell of the file that the provider has: `uploaded`, or `ready` if there is nothing left to do.

    Raises:
        ChatNotFoundError, AttachmentNotFoundError: it was deleted meanwhile.
        StorageLimitExceededError: it was larger than announced, and does not fit into the chat.
    """
    tenant_id, user_id = principal.tenant_id, principal.user_id

    async def change(session: AsyncSession) -> Attachment:
        await ChatRepository(session).lock_owned(incoming.chat_id, tenant_id=tenant_id, user_id=user_id)
        attachments = AttachmentRepository(session)
        now = context.clock.now()
        is_wanted = await attachments.mark_uploaded(
            incoming.attachment_id, tenant_id=tenant_id, provider_file_id=file_id, size_bytes=size_bytes, now=now
        )
        if not is_wanted:
            raise AttachmentNotFoundError
        held = await attachments.holdings_of(incoming.chat_id, tenant_id=tenant_id)
        if held.size_bytes > max_bytes_per_chat:
            raise StorageLimitExceededError
        if not incoming.media.for_file_search:
            columns = _columns_of(thumbnail)
            await attachments.mark_ready(incoming.attachment_id, tenant_id=tenant_id, now=now, **columns)
        if incoming.media.kind == "image":
            account = Account(tenant_id, user_id, period_start("daily", now), period_start("monthly", now))
            await QuotaRepository(session).count_image_upload(account, size_bytes)
        return await attachments.get(incoming.attachment_id, chat_id=incoming.chat_id, tenant_id=tenant_id)

    return await run_transaction(context.sessions, change)


async def give_up(
    incoming: Incoming,
    error_code: UploadFailure,
    principal: Principal,
    context: ApiContext,
    *,
    file_id: str | None,
    is_nowhere: bool,
) -> None:
    """Leave the row failed, if it is still on its way, and the provider's file to the cleanup of whoever owns it now.

    Where that cannot be done, or a worker has given the row up before, a worker finds the file by its name.

    Args:
        is_nowhere: the provider has certainly no file, so that nobody needs to look for one.
    """
    tenant_id = principal.tenant_id

    async def change(session: AsyncSession) -> None:
        now = context.clock.now()
        attachments = AttachmentRepository(session)
        try:
            await ChatRepository(session).lock_owned(incoming.chat_id, tenant_id=tenant_id, user_id=principal.user_id)
            is_chat_alive = True
        except ChatNotFoundError:
            is_chat_alive = False
        was_pending = await attachments.give_up(
            incoming.attachment_id,
            error_code,
            tenant_id=tenant_id,
            provider_file_id=file_id,
            is_nowhere=is_nowhere,
            now=now,
        )
        if not was_pending or file_id is None:
            return
        row = await attachments.get(incoming.attachment_id, chat_id=incoming.chat_id, tenant_id=tenant_id)
        message = (
            attachment_deleted(row, vector_store_id=None, deleted_at=now)
            if is_chat_alive
            else chat_cleanup(incoming.chat_id, tenant_id=tenant_id, deleted_at=now)
        )
        await enqueue(session, [message], metrics=context.metrics)

    try:
        await run_transaction(context.sessions, change)
    except Exception as error:
        logger.warning("an upload is left to the workers: %r", error)


def _columns_of(thumbnail: Thumbnail | None) -> Mapping[str, Any]:
    if thumbnail is None:
        return {}
    return {
        "img_thumbnail": thumbnail.data,
        "img_thumbnail_width": thumbnail.width,
        "img_thumbnail_height": thumbnail.height,
    }

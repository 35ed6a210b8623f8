"""Takes an upload: checks that leave no trace, a row, the file on disk, the file at the provider, the row again.

The row is `pending` from before the file is read until everything is done, and changes once: an image or a spreadsheet
is `ready` then, a document is `uploaded` until a worker has indexed it. Whatever fails on the way leaves the row
`failed`, and what the provider has of it to the cleanup, in one transaction. Where a process dies on the way, or a
provider does not say whether it has taken the file, a worker looks for it there, by its name.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, time
from typing import Final

from api.attachments.incoming import Incoming, Terms
from api.attachments.multipart import MultipartReader, boundary_of
from api.attachments.rows import give_up, insert_pending, keep
from api.attachments.spool import Spool
from api.attachments.thumbnails import Thumbnail
from api.auth import Principal
from api.context import ApiContext
from shared.attachments.errors import (
    DocumentLimitExceededError,
    FileTooLargeError,
    StorageLimitExceededError,
    UnsupportedFileTypeError,
    UploadConcurrencyLimitError,
)
from shared.attachments.filenames import safe_filename
from shared.attachments.indexing import TIMEOUT
from shared.attachments.media_types import Kind, MediaType
from shared.attachments.repository import AttachmentRepository, UploadFailure
from shared.attachments.tables import Attachment
from shared.chats.repository import ChatRepository
from shared.db.engine import single_statement
from shared.errors import ChatError, InvalidError, UpstreamError, UpstreamTimeoutError
from shared.ids import AttachmentId, ChatId, new_uuid7
from shared.providers.failures import is_outage_status
from shared.providers.storage import ProviderStorage, StorageError
from shared.queue.jobs import IndexAttachment
from shared.quotas.errors import QuotaExceededError
from shared.quotas.periods import period_start
from shared.trace import current_traceparent
from shared.valkey.client import REDIS_FAILURE

OVERHEAD_BYTES: Final = 65_536
"""What a body may hold beside the file: boundaries, headers, other parts."""

_RESULTS: Final[Mapping[type[ChatError], str]] = {
    UnsupportedFileTypeError: "unsupported_type",
    FileTooLargeError: "file_too_large",
    StorageLimitExceededError: "storage_limit_exceeded",
    UploadConcurrencyLimitError: "concurrency_limit",
    UpstreamError: "provider_error",
    UpstreamTimeoutError: "provider_error",
}
_REASONS: Final[Mapping[type[ChatError], str]] = {
    FileTooLargeError: "max_size",
    DocumentLimitExceededError: "max_documents",
}
_FAILURES: Final[Mapping[type[BaseException], UploadFailure]] = {
    FileTooLargeError: "file_too_large",
    StorageLimitExceededError: "storage_limit_exceeded",
}

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class UploadRequest:
    """A body on its way: what its headers say, and its bytes as they arrive."""

    chat_id: ChatId
    content_type: str | None
    content_length: int | None
    chunks: AsyncIterator[bytes]


async def upload_attachment(request: UploadRequest, principal: Principal, context: ApiContext) -> Attachment:
    """Take the first part that is called `file`; the attachment as it is stored now.

    Raises:
        ChatError: it was refused, or failed; no row is left, or one that is `failed`.
        ClientDisconnect: the client has left before its file was there; the same holds.
    """
    terms = await _terms_of(request.chat_id, principal, context)
    longest = max(terms.limit_of("document"), terms.limit_of("image"))
    reader = MultipartReader(request.chunks, boundary_of(request.content_type), max_bytes=longest + OVERHEAD_BYTES)
    given_name, declared = await _find_file(reader)
    filename = safe_filename(given_name)
    kind: Kind = "image" if declared.lower().startswith("image/") else "document"
    with _counted(kind, context):
        media = terms.media_type_of(declared, filename)
    with _counted(media.kind, context):
        limit = terms.limit_of(media.kind)
        reader.max_bytes = limit + OVERHEAD_BYTES
        if (request.content_length or 0) > reader.max_bytes:
            raise FileTooLargeError
        with context.upload_permits.hold():
            hint = 0 if request.content_length is None else reader.expected_bytes(request.content_length)
            await _check_day_limit(hint, principal, context)
            media = terms.usable(media)
            incoming = Incoming(
                attachment_id=AttachmentId(new_uuid7()),
                chat_id=request.chat_id,
                filename=filename,
                media=media,
                limit=limit,
                size_hint=hint,
                storage=_storage_of(terms, principal, context),
            )
            attachment = await _take_in(incoming, reader, terms, principal, context)
    _observe(attachment, media, context)
    return attachment


async def _terms_of(chat_id: ChatId, principal: Principal, context: ApiContext) -> Terms:
    async with single_statement(context.sessions) as session:
        chat = await ChatRepository(session).get_owned(
            chat_id, tenant_id=principal.tenant_id, user_id=principal.user_id
        )
    catalog = context.catalog.current
    return Terms(catalog.find_model(chat.model), catalog, context.settings.rag)


async def _find_file(reader: MultipartReader) -> tuple[str | None, str]:
    """The name that its client gives the file, and the type."""
    while (head := await reader.next_part()) is not None:
        if head.name != "file":
            continue
        if head.content_type is None:
            raise InvalidError("The part named file has no Content-Type")
        return head.filename, head.content_type
    raise InvalidError("The body has no part named file")


async def _check_day_limit(size_hint: int, principal: Principal, context: ApiContext) -> None:
    limit = context.settings.rag.max_upload_bytes_per_user_per_day
    if not limit:
        return
    midnight = datetime.combine(period_start("daily", context.clock.now()), time(), UTC)
    async with single_statement(context.sessions) as session:
        used = await AttachmentRepository(session).bytes_uploaded_since(
            midnight, tenant_id=principal.tenant_id, user_id=principal.user_id
        )
    if used + max(size_hint, 1) > limit:
        raise QuotaExceededError("Daily upload quota exceeded", quota_scope="uploads")


def _storage_of(terms: Terms, principal: Principal, context: ApiContext) -> ProviderStorage:
    """Of the chat's model; of the one that would take its place if the catalog has it no more."""
    model = terms.model or terms.catalog.default_model()
    if model is None:
        raise UpstreamError
    try:
        return context.storages.of_provider(model.provider_id, principal.tenant_id)
    except StorageError as error:
        raise UpstreamError(error.message) from error


async def _take_in(
    incoming: Incoming, reader: MultipartReader, terms: Terms, principal: Principal, context: ApiContext
) -> Attachment:
    """From the row to the attachment, or to the row of what came to nothing."""
    max_bytes_per_chat = terms.max_bytes_per_chat
    await insert_pending(incoming, principal, context, max_bytes_per_chat=max_bytes_per_chat)
    file_id: str | None = None
    may_be_at_provider = False
    try:
        async with Spool(max_bytes=incoming.limit) as spool:
            await _receive(reader, spool)
            may_be_at_provider = True
            file_id = await _send_to_provider(incoming, spool)
            attachment = await keep(
                incoming,
                principal,
                context,
                file_id=file_id,
                size_bytes=spool.size_bytes,
                thumbnail=await _thumbnail_of(incoming, spool, context),
                max_bytes_per_chat=max_bytes_per_chat,
            )
    except (Exception, asyncio.CancelledError) as error:
        await give_up(
            incoming,
            _FAILURES.get(type(error), "upload_failed"),
            principal,
            context,
            file_id=file_id,
            is_nowhere=not may_be_at_provider or _is_refusal(error.__cause__),
        )
        raise
    if incoming.media.for_file_search:
        await _enqueue_indexing(attachment, context)
    return attachment


async def _receive(reader: MultipartReader, spool: Spool) -> None:
    """The whole body; no longer than a row may be on its way before it is taken for dead."""
    try:
        async with asyncio.timeout(TIMEOUT.total_seconds()):
            async for piece in reader.data():
                await spool.write(piece)
            await reader.finish()
    except TimeoutError:
        raise InvalidError("The body has taken too long to arrive") from None


async def _send_to_provider(incoming: Incoming, spool: Spool) -> str:
    """The provider's id of the file."""
    try:
        return await incoming.storage.upload_file(
            await spool.rewound(),
            filename=incoming.provider_filename,
            content_type=incoming.media.content_type,
            purpose=incoming.purpose,
        )
    except StorageError as error:
        logger.warning("the provider did not take a file: %s", error.detail, extra={"error_code": error.code})
        raise (UpstreamTimeoutError if error.is_timeout else UpstreamError)(error.message) from error


def _is_refusal(error: BaseException | None) -> bool:
    """Whether the provider says that it has not taken the file; a gateway's 5xx says nothing of the kind."""
    if not isinstance(error, StorageError) or error.http_status is None:
        return False
    return not is_outage_status(error.http_status)


async def _thumbnail_of(incoming: Incoming, spool: Spool, context: ApiContext) -> Thumbnail | None:
    if incoming.media.kind != "image":
        return None
    return await context.thumbnails.make(await spool.rewound(), size_bytes=spool.size_bytes)


async def _enqueue_indexing(attachment: Attachment, context: ApiContext) -> None:
    job = IndexAttachment(
        tenant_id=attachment.tenant_id,
        chat_id=attachment.chat_id,
        attachment_id=attachment.id,
        traceparent=current_traceparent(),
    )
    try:
        await context.queue.enqueue(job)
    except REDIS_FAILURE as error:
        logger.warning("an uploaded document is left to the workers: %r", error)


@contextmanager
def _counted(kind: Kind, context: ApiContext) -> Iterator[None]:
    """Count the failures whose reason lies in the file, its chat or the provider."""
    try:
        yield
    except ChatError as error:
        if (result := _RESULTS.get(type(error))) is not None:
            context.metrics.attachment_upload.labels(kind=kind, result=result).inc()
        if (reason := _REASONS.get(type(error))) is not None:
            context.metrics.upload_rejected.labels(reason=reason).inc()
        raise


def _observe(attachment: Attachment, media: MediaType, context: ApiContext) -> None:
    context.metrics.attachment_upload.labels(kind=media.kind, result="ok").inc()
    context.metrics.attachment_upload_bytes.labels(kind=media.kind).observe(attachment.size_bytes)

"""Reads which files a turn is about: those of its chat for tools, its own images, and those that its answer cites.

Only live, ready files that the provider has count. One query each, and none where the turn needs none.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Select, and_, any_, bindparam, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.types import String

from shared.attachments.tables import Attachment, ChatVectorStore
from shared.messages.tables import Message, MessageAttachment
from shared.turns.context import DocumentSummary
from shared.turns.tools import AvailableFiles


@dataclass(frozen=True, slots=True)
class ChatFiles:
    """What a chat holds for tools; `code_file_ids` are the provider's, in the order of upload."""

    vector_store_id: str | None = None
    has_documents: bool = False
    code_file_ids: tuple[str, ...] = ()
    document_summaries: tuple[DocumentSummary, ...] = ()

    @property
    def available(self) -> AvailableFiles:
        return AvailableFiles(
            has_documents=self.has_documents,
            has_vector_store=self.vector_store_id is not None,
            has_code_files=bool(self.code_file_ids),
        )


@dataclass(frozen=True, slots=True)
class CitedFile:
    """Ours, for a file that the provider names by its own id."""

    attachment_id: UUID
    filename: str


NO_FILES = ChatFiles()

_IS_READY = and_(
    Attachment.tenant_id == bindparam("tenant"),
    Attachment.chat_id == bindparam("chat"),
    Attachment.deleted_at.is_(None),
    Attachment.cleanup_status.is_(None),
    Attachment.status == "ready",
    Attachment.provider_file_id.is_not(None),
)

_FIND_DOCUMENTS = (
    select(
        Attachment.provider_file_id,
        Attachment.filename,
        Attachment.for_file_search,
        Attachment.for_code_interpreter,
        Attachment.doc_summary,
        ChatVectorStore.vector_store_id,
    )
    .outerjoin(
        ChatVectorStore,
        and_(ChatVectorStore.chat_id == Attachment.chat_id, ChatVectorStore.tenant_id == Attachment.tenant_id),
    )
    .where(_IS_READY, Attachment.attachment_kind == "document")
    .order_by(Attachment.created_at, Attachment.id)
)


def _find_images() -> Select[str | None]:
    return (
        select(Attachment.provider_file_id)
        .join(
            MessageAttachment,
            and_(
                MessageAttachment.attachment_id == Attachment.id,
                MessageAttachment.chat_id == Attachment.chat_id,
                MessageAttachment.tenant_id == Attachment.tenant_id,
            ),
        )
        .join(Message, and_(Message.id == MessageAttachment.message_id, Message.chat_id == MessageAttachment.chat_id))
        .where(
            _IS_READY,
            Attachment.attachment_kind == "image",
            Message.request_id == bindparam("request"),
            Message.role == "user",
            Message.deleted_at.is_(None),
        )
        .order_by(MessageAttachment.created_at, MessageAttachment.attachment_id)
    )


_FIND_IMAGES = _find_images()

_FIND_CITED = select(Attachment.provider_file_id, Attachment.id, Attachment.filename).where(
    _IS_READY, Attachment.provider_file_id == any_(bindparam("file_ids", type_=ARRAY(String)))
)


async def load_chat_files(session: AsyncSession, *, tenant_id: UUID, chat_id: UUID) -> ChatFiles:
    """The chat's documents and spreadsheets, and its vector store."""
    rows = (await session.execute(_FIND_DOCUMENTS, {"tenant": tenant_id, "chat": chat_id})).all()
    if not rows:
        return NO_FILES
    return ChatFiles(
        vector_store_id=rows[0].vector_store_id,
        has_documents=any(row.for_file_search for row in rows),
        code_file_ids=tuple(row.provider_file_id for row in rows if row.for_code_interpreter),
        document_summaries=tuple(DocumentSummary(row.filename, row.doc_summary) for row in rows if row.doc_summary),
    )


async def load_images(session: AsyncSession, *, tenant_id: UUID, chat_id: UUID, request_id: UUID) -> tuple[str, ...]:
    """The provider's ids of the images of the turn's user message, in the order in which they were attached."""
    values = {"tenant": tenant_id, "chat": chat_id, "request": request_id}
    return tuple(file_id for file_id in await session.scalars(_FIND_IMAGES, values) if file_id is not None)


async def load_cited_files(
    session: AsyncSession, *, tenant_id: UUID, chat_id: UUID, file_ids: Collection[str]
) -> Mapping[str, CitedFile]:
    """The chat's files by the provider's ids; what is not there is unknown or deleted."""
    if not file_ids:
        return {}
    values = {"tenant": tenant_id, "chat": chat_id, "file_ids": sorted(file_ids)}
    rows = await session.execute(_FIND_CITED, values)
    return {row.provider_file_id: CitedFile(row.id, row.filename) for row in rows}

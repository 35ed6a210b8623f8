"""All that has to be known before a turn is accepted, read in one round trip and without a lock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import ScalarSelect, Select, Uuid, and_, bindparam, exists, func, literal_column, or_, select, true
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from shared.attachments.tables import Attachment, ChatVectorStore
from shared.chats.tables import Chat
from shared.messages.tables import Message
from shared.quotas.credits import MAX_TOKENS
from shared.quotas.repository import Account, standing_columns, standing_of
from shared.quotas.reserve import Standing
from shared.summaries.repository import estimate_of_chat
from shared.turns.tables import Turn
from shared.turns.tools import AvailableFiles


@dataclass(frozen=True, slots=True)
class SendView:
    """Attributes:
    turn: the one that already has the request id, deleted or not.
    prior_context_tokens: input and output of the newest live answer that was counted, or 0.
    summary_token_estimate: of the chat's summary; None without one.
    """

    chat: Chat
    turn: Turn | None
    running_turn_id: UUID | None
    prior_context_tokens: int
    files: AvailableFiles
    summary_token_estimate: int | None
    standing: Standing


async def load_send_view(
    session: AsyncSession, account: Account, *, chat_id: UUID, request_id: UUID, replaced: UUID | None
) -> SendView | None:
    """None if the chat is absent, deleted or not the user's.

    Args:
        replaced: the request id of the turn whose messages are about to go.
    """
    values = account.parameters | {"chat": chat_id, "request": request_id, "replaced": replaced}
    row = (await session.execute(_LOAD, values)).one_or_none()
    if row is None:
        return None
    return SendView(
        chat=row[0],
        turn=row[1],
        running_turn_id=row[2],
        prior_context_tokens=row.prior_context_tokens or 0,
        files=AvailableFiles(
            has_documents=row.has_documents, has_vector_store=row.has_vector_store, has_code_files=row.has_code_files
        ),
        summary_token_estimate=row.summary_token_estimate,
        standing=standing_of(row._mapping),
    )


def _load() -> Select[Any]:
    same, running = aliased(Turn), aliased(Turn)
    # A literal: the partial index serves no statement whose state is a parameter.
    is_running = and_(
        running.chat_id == Chat.id, running.state == literal_column("'running'"), running.deleted_at.is_(None)
    )
    standing = standing_columns().subquery("standing")
    return (
        select(
            Chat,
            same,
            running.id,
            _prior_context_tokens().label("prior_context_tokens"),
            _has_ready_file(Attachment.for_file_search, Attachment.attachment_kind == "document").label(
                "has_documents"
            ),
            _has_vector_store().label("has_vector_store"),
            _has_ready_file(Attachment.for_code_interpreter).label("has_code_files"),
            estimate_of_chat().label("summary_token_estimate"),
            *standing.c,
        )
        .outerjoin(same, and_(same.chat_id == Chat.id, same.request_id == bindparam("request", type_=Uuid)))
        .outerjoin(running, is_running)
        .join(standing, true())
        .where(
            Chat.id == bindparam("chat", type_=Uuid),
            Chat.tenant_id == bindparam("tenant", type_=Uuid),
            Chat.user_id == bindparam("user", type_=Uuid),
            Chat.deleted_at.is_(None),
        )
    )


def _prior_context_tokens() -> ScalarSelect[Any]:
    return (
        select(Message.input_tokens + Message.output_tokens)
        .where(
            Message.chat_id == Chat.id,
            Message.tenant_id == Chat.tenant_id,
            Message.role == "assistant",
            Message.deleted_at.is_(None),
            or_(Message.input_tokens > 0, Message.output_tokens > 0),
            # A count that was too absurd to be charged says nothing about the context either.
            Message.input_tokens <= MAX_TOKENS,
            Message.output_tokens <= MAX_TOKENS,
            func.coalesce(Message.request_id != bindparam("replaced", type_=Uuid), true()),
        )
        .order_by(Message.created_at.desc(), Message.id.desc())
        .limit(1)
        .correlate(Chat)
        .scalar_subquery()
    )


def _has_ready_file(*conditions: Any) -> Any:
    return (
        exists()
        .where(
            Attachment.chat_id == Chat.id,
            Attachment.tenant_id == Chat.tenant_id,
            Attachment.deleted_at.is_(None),
            Attachment.status == "ready",
            *conditions,
        )
        .correlate(Chat)
    )


def _has_vector_store() -> Any:
    return (
        exists()
        .where(
            ChatVectorStore.chat_id == Chat.id,
            ChatVectorStore.tenant_id == Chat.tenant_id,
            ChatVectorStore.vector_store_id.is_not(None),
        )
        .correlate(Chat)
    )


# Aliases are dear to make (7 ms of CPU for these): once, not for every send.
_LOAD = _load()

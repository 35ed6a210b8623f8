"""Changes the last turn of a chat: retry it, edit its question, or delete it.

Only the newest live turn can be changed, and only after it has ended. A retry or an edit is a new turn that takes the
place of the old one in the same transaction; a refusal leaves the old turn as it was. Of two that are asked for at
once, the second finds that the turn is no longer the newest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from api.auth import Principal
from api.context import ApiContext
from api.turns.metrics import measured_mutation
from api.turns.preflight import (
    Accepted,
    Admitted,
    TurnRequest,
    account_of,
    admit,
    announce,
    insert_turn,
)
from api.turns.send_view import SendView
from api.turns.submit import Existing, find_existing
from shared.attachments.tables import Attachment
from shared.chats.errors import ChatNotFoundError
from shared.chats.tables import Chat
from shared.db.transaction import run_transaction
from shared.errors import ForbiddenError, UnavailableError
from shared.ids import ChatId, new_uuid4
from shared.messages.tables import Message, MessageAttachment
from shared.outbox.enqueue import enqueue
from shared.outbox.messages import audit
from shared.quotas.repository import Account
from shared.settings import OnDisconnect, OnWorkerLoss
from shared.turns.audit_events import turn_deleted, turn_replaced
from shared.turns.errors import (
    GenerationInProgressError,
    InvalidTurnStateError,
    NotLatestTurnError,
    TurnNotFoundError,
)
from shared.turns.lifecycle import TurnState
from shared.turns.repository import TurnRepository
from shared.turns.tables import Turn
from shared.valkey.keyspace import TurnKeys


@dataclass(frozen=True, slots=True)
class ReplaceTurn:
    """Ask again, with the old text or with `content`."""

    chat_id: ChatId
    old_request_id: UUID
    content: str | None
    request_id: UUID | None
    on_disconnect: OnDisconnect
    on_worker_loss: OnWorkerLoss
    may_attach: bool


async def replace_turn(command: ReplaceTurn, principal: Principal, context: ApiContext) -> Accepted | Existing:
    """Accept a turn in the place of the last one.

    Raises:
        ChatError: refused; the old turn is as it was.
    """
    with measured_mutation(context.metrics, "retry" if command.content is None else "edit"):
        return await _replace(command, principal, context)


async def _replace(command: ReplaceTurn, principal: Principal, context: ApiContext) -> Accepted | Existing:
    account = account_of(principal, context)
    draft = TurnRequest(
        chat_id=command.chat_id,
        request_id=command.request_id or new_uuid4(),
        content=command.content or "",
        attachment_ids=(),
        is_web_search_wanted=False,
        on_disconnect=command.on_disconnect,
        on_worker_loss=command.on_worker_loss,
        replaced=command.old_request_id,
    )
    view, is_there = await asyncio.gather(
        find_existing(draft, account, context, may_attach=command.may_attach), context.limiter.is_valkey_there()
    )
    if isinstance(view, Existing):
        return view
    try:
        return await _take_place(draft, view, command, account, principal, context, is_valkey_there=is_there)
    except (NotLatestTurnError, GenerationInProgressError):
        # Whoever was faster may have been this request, repeated by a client that saw no answer: its id is what counts.
        again = await find_existing(draft, account, context, may_attach=command.may_attach)
        if isinstance(again, Existing):
            return again
        raise


async def _take_place(
    draft: TurnRequest,
    view: SendView,
    command: ReplaceTurn,
    account: Account,
    principal: Principal,
    context: ApiContext,
    *,
    is_valkey_there: bool,
) -> Accepted:
    old, request = await _complete(draft, command, principal, context)
    keys = TurnKeys(request.chat_id, request.request_id)
    async with context.limiter.entering(principal, keys, is_valkey_there=is_valkey_there) as entry:
        admitted = await admit(request, view, account, principal, context)
        if not entry.is_answered:
            raise UnavailableError
        turn = await _commit(request, old, admitted, command, principal, context)
    return await announce(turn, admitted, entry, context)


async def delete_turn(chat_id: ChatId, request_id: UUID, principal: Principal, context: ApiContext) -> None:
    """Take the last turn and its messages out of the chat.

    Raises:
        ChatError: there is no such turn, or it cannot be deleted.
    """

    async def delete(session: AsyncSession) -> None:
        now = await _lock_chat(session, chat_id, principal)
        turn = await _get_changeable(session, chat_id, request_id, principal)
        await TurnRepository(session).soft_delete(turn)
        event = turn_deleted(turn, actor_user_id=principal.user_id, now=now)
        await enqueue(session, [audit(event, tenant_id=principal.tenant_id, now=now)], metrics=context.metrics)

    with measured_mutation(context.metrics, "delete"):
        await run_transaction(context.sessions, delete)


async def _complete(
    draft: TurnRequest, command: ReplaceTurn, principal: Principal, context: ApiContext
) -> tuple[Turn, TurnRequest]:
    """The turn to be replaced, and the request with what it inherits from that turn."""
    async with context.sessions() as session:
        old = await _get_changeable(session, command.chat_id, command.old_request_id, principal)
        message = await _get_user_message(session, old)
        attachment_ids = await _list_live_attachments(session, message)
    content = message.content if command.content is None else command.content
    return (
        old,
        replace(
            draft,
            content=content,
            attachment_ids=tuple(attachment_ids),
            is_web_search_wanted=old.web_search_enabled,
        ),
    )


async def _commit(
    request: TurnRequest,
    old: Turn,
    admitted: Admitted,
    command: ReplaceTurn,
    principal: Principal,
    context: ApiContext,
) -> Turn:
    async def swap(session: AsyncSession) -> Turn:
        now = await _lock_chat(session, request.chat_id, principal)
        # Looked up again, deleted or not: who lost the race is told so.
        current = await _get_changeable(session, request.chat_id, old.request_id, principal)
        await TurnRepository(session).soft_delete(current, replaced_by=request.request_id)
        turn = await insert_turn(session, request, admitted, principal, context, now=now)
        event = turn_replaced(
            current,
            by=turn,
            actor_user_id=principal.user_id,
            event_type="turn_retry" if command.content is None else "turn_edit",
            now=now,
        )
        await enqueue(session, [audit(event, tenant_id=principal.tenant_id, now=now)], metrics=context.metrics)
        return turn

    try:
        return await run_transaction(context.sessions, swap)
    except IntegrityError:
        raise GenerationInProgressError from None


async def _lock_chat(session: AsyncSession, chat_id: ChatId, principal: Principal) -> datetime:
    """Lock the chat's row by moving its `updated_at`, which is then the database's time.

    Raises:
        ChatNotFoundError: absent, deleted or somebody else's.
    """
    now: datetime | None = await session.scalar(
        update(Chat)
        .where(
            Chat.id == chat_id,
            Chat.tenant_id == principal.tenant_id,
            Chat.user_id == principal.user_id,
            Chat.deleted_at.is_(None),
        )
        .values(updated_at=func.clock_timestamp())
        .returning(Chat.updated_at)
    )
    if now is None:
        raise ChatNotFoundError
    return now


async def _get_changeable(session: AsyncSession, chat_id: ChatId, request_id: UUID, principal: Principal) -> Turn:
    """The turn, if it is the caller's, has ended, and is the newest live one of its chat; asked in this order."""
    turns = TurnRepository(session)
    found = await turns.find_in_chat(
        chat_id=chat_id, tenant_id=principal.tenant_id, user_id=principal.user_id, request_id=request_id
    )
    if found is None:
        raise ChatNotFoundError
    turn = found[1]
    if turn is None:
        raise TurnNotFoundError
    if turn.requester_user_id != principal.user_id:
        raise ForbiddenError
    if turn.state == TurnState.RUNNING:
        raise InvalidTurnStateError
    newest = await turns.find_newest(chat_id)
    if newest is None or newest.id != turn.id:
        raise NotLatestTurnError
    return turn


async def _get_user_message(session: AsyncSession, turn: Turn) -> Message:
    statement = select(Message).where(
        Message.chat_id == turn.chat_id,
        Message.request_id == turn.request_id,
        Message.role == "user",
        Message.deleted_at.is_(None),
    )
    message = await session.scalar(statement)
    if message is None:
        raise NotLatestTurnError  # replaced between two statements
    return message


async def _list_live_attachments(session: AsyncSession, message: Message) -> Sequence[UUID]:
    statement = (
        select(Attachment.id)
        .join(MessageAttachment, MessageAttachment.attachment_id == Attachment.id)
        .where(
            MessageAttachment.chat_id == message.chat_id,
            MessageAttachment.message_id == message.id,
            Attachment.deleted_at.is_(None),
            Attachment.status == "ready",
        )
        .order_by(MessageAttachment.created_at, Attachment.id)
    )
    return (await session.scalars(statement)).all()

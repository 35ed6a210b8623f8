"""Accepts a turn: checks in a fixed order that leave no trace, one transaction, then the log and the queue.

Once `submit_turn` has returned an accepted turn, the turn ends, whatever happens to this process: its row is committed,
and a worker finds a row whose job was lost. That is why nothing that fails after the commit is an error here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from api.auth import Principal
from api.context import ApiContext
from shared.attachments.tables import Attachment
from shared.chats.errors import ChatNotFoundError
from shared.chats.tables import Chat
from shared.db.transaction import run_transaction
from shared.errors import UnavailableError
from shared.events import frames
from shared.events.frames import Frame
from shared.ids import ChatId, new_uuid4
from shared.messages.tables import Message, MessageAttachment
from shared.model_catalog.catalog import Catalog
from shared.queue.jobs import RunTurn
from shared.quotas.effective_model import ModelDecision, decide_model
from shared.quotas.estimation import budgets_of, estimate_text, max_output_tokens
from shared.settings import OnDisconnect, OnWorkerLoss
from shared.trace import current_trace
from shared.turns.context import check_mandatory
from shared.turns.errors import (
    GenerationInProgressError,
    InputTooLongError,
    InvalidAttachmentError,
    RequestIdConflictError,
    WebSearchDisabledError,
)
from shared.turns.lifecycle import TurnState
from shared.turns.repository import SendView, TurnRepository
from shared.turns.tables import Turn
from shared.valkey.client import REDIS_FAILURE
from shared.valkey.keyspace import TurnKeys
from shared.valkey.scripts import run_scripts

logger = logging.getLogger(__name__)

TITLE_LENGTH = 60
"""How much of its first message a chat without a title is called by."""


@dataclass(frozen=True, slots=True)
class SubmitTurn:
    """What a client asks for."""

    chat_id: ChatId
    content: str
    request_id: UUID | None
    attachment_ids: tuple[UUID, ...]
    is_web_search_wanted: bool
    on_disconnect: OnDisconnect
    on_worker_loss: OnWorkerLoss
    may_attach: bool
    """The client named a place in the stream: a turn that exists is joined, in whatever state it is."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """A new turn. `started` is in the log already if `is_logged`."""

    turn: Turn
    started: Frame
    is_logged: bool


@dataclass(frozen=True, slots=True)
class Existing:
    """The turn that the request id already names; it is to be replayed or attached to."""

    turn: Turn


async def submit_turn(command: SubmitTurn, principal: Principal, context: ApiContext) -> Accepted | Existing:
    """Accept a turn, or find the one that the request id names.

    Raises:
        ChatError: the request is refused and has left no trace.
    """
    request_id = command.request_id or new_uuid4()
    view, is_valkey_there = await asyncio.gather(
        _find(command, principal, context, request_id), _is_valkey_there(context)
    )
    if isinstance(view, Existing):
        return view
    catalog = context.catalog.current
    if command.attachment_ids:
        async with context.sessions() as session:
            await _check_attachments(session, command, principal)
    if command.is_web_search_wanted and catalog.kill_switches.disable_web_search:
        raise WebSearchDisabledError
    decision = decide_model(catalog, view.chat.model, is_affordable=lambda _: True)
    _check_length(command, decision, context)
    if not is_valkey_there:
        raise UnavailableError
    turn = await _commit(command, principal, context, request_id, catalog, decision)
    if isinstance(turn, Existing):
        return turn
    return await _announce(turn, context)


async def _find(
    command: SubmitTurn, principal: Principal, context: ApiContext, request_id: UUID
) -> SendView | Existing:
    """The chat, free for a new turn; or the turn that the request id names.

    The request id is looked at first: a finished turn is replayed even while another one runs.
    """
    async with context.sessions() as session:
        view = await TurnRepository(session).find_for_send(
            chat_id=command.chat_id,
            tenant_id=principal.tenant_id,
            user_id=principal.user_id,
            request_id=request_id,
        )
    if view is None:
        raise ChatNotFoundError
    if view.turn is not None:
        if view.turn.deleted_at is not None:
            raise RequestIdConflictError
        if command.may_attach or view.turn.state == TurnState.COMPLETED:
            return Existing(view.turn)
        raise RequestIdConflictError
    if view.running_turn_id is not None:
        raise GenerationInProgressError
    return view


async def _is_valkey_there(context: ApiContext) -> bool:
    try:
        await context.valkey.ping()
    except REDIS_FAILURE as error:
        logger.warning("Valkey does not answer: %r", error)
        return False
    return True


async def _check_attachments(
    session: AsyncSession, command: SubmitTurn, principal: Principal, *, lock: bool = False
) -> Sequence[Attachment]:
    statement = select(Attachment).where(
        Attachment.id.in_(command.attachment_ids),
        Attachment.tenant_id == principal.tenant_id,
        Attachment.chat_id == command.chat_id,
        Attachment.uploaded_by_user_id == principal.user_id,
        Attachment.deleted_at.is_(None),
        Attachment.status == "ready",
    )
    if lock:
        statement = statement.order_by(Attachment.id).with_for_update(read=True)
    found = (await session.execute(statement)).scalars().all()
    if len(found) != len(command.attachment_ids):
        raise InvalidAttachmentError
    return found


def _check_length(command: SubmitTurn, decision: ModelDecision, context: ApiContext) -> None:
    model = decision.model
    budgets = budgets_of(model, context.settings)
    tokens = estimate_text(command.content, budgets)
    if tokens > model.max_input_tokens:
        raise InputTooLongError(current=tokens, maximum=model.max_input_tokens)
    check_mandatory(
        model=model,
        budgets=budgets,
        max_output_tokens=max_output_tokens(model, context.settings),
        user_text=command.content,
    )


async def _commit(
    command: SubmitTurn,
    principal: Principal,
    context: ApiContext,
    request_id: UUID,
    catalog: Catalog,
    decision: ModelDecision,
) -> Turn | Existing:
    """The preflight transaction; a request that lost a race is answered as if it had come after the winner."""
    for _ in range(2):
        try:
            return await run_transaction(
                context.sessions,
                lambda session: _insert(session, command, principal, context, request_id, catalog, decision),
            )
        except IntegrityError:
            view = await _find(command, principal, context, request_id)
            if isinstance(view, Existing):
                return view
    raise GenerationInProgressError


async def _insert(
    session: AsyncSession,
    command: SubmitTurn,
    principal: Principal,
    context: ApiContext,
    request_id: UUID,
    catalog: Catalog,
    decision: ModelDecision,
) -> Turn:
    """Locks in the order of every transaction: the chat, then the attachments, then inserts."""
    now = await session.scalar(
        update(Chat)
        .where(Chat.id == command.chat_id, Chat.deleted_at.is_(None))
        .values(
            updated_at=func.clock_timestamp(),
            title=func.coalesce(Chat.title, title_from(command.content)),
        )
        .returning(Chat.updated_at)
    )
    if now is None:
        raise ChatNotFoundError
    if command.attachment_ids:
        await _check_attachments(session, command, principal, lock=True)
    turn = _new_turn(command, principal, context, request_id, catalog, decision, now)
    session.add(turn)
    await session.flush()
    message_id = new_uuid4()
    await session.execute(
        insert(Message).values(
            id=message_id,
            tenant_id=principal.tenant_id,
            chat_id=command.chat_id,
            request_id=request_id,
            role="user",
            content=command.content,
            request_kind="chat",
            created_at=now,
        )
    )
    if command.attachment_ids:
        await session.execute(
            insert(MessageAttachment),
            [
                {
                    "tenant_id": principal.tenant_id,
                    "chat_id": command.chat_id,
                    "message_id": message_id,
                    "attachment_id": attachment_id,
                    "created_at": now,
                }
                for attachment_id in command.attachment_ids
            ],
        )
    return turn


def _new_turn(
    command: SubmitTurn,
    principal: Principal,
    context: ApiContext,
    request_id: UUID,
    catalog: Catalog,
    decision: ModelDecision,
    now: datetime,
) -> Turn:
    today = context.clock.now().date()
    return Turn(
        id=new_uuid4(),
        tenant_id=principal.tenant_id,
        chat_id=command.chat_id,
        request_id=request_id,
        requester_type="user",
        requester_user_id=principal.user_id,
        state=TurnState.RUNNING,
        provider_name=decision.model.provider_id,
        planned_message_id=new_uuid4(),
        max_output_tokens_applied=max_output_tokens(decision.model, context.settings),
        policy_version_applied=catalog.policy_version,
        effective_model=decision.model.id,
        minimal_generation_floor_applied=context.settings.estimation_budgets.minimal_generation_floor,
        daily_period_start=today,
        monthly_period_start=today.replace(day=1),
        quota_decision=decision.decision,
        downgrade_from=decision.downgrade_from,
        downgrade_reason=decision.downgrade_reason,
        web_search_enabled=command.is_web_search_wanted,
        on_disconnect=command.on_disconnect,
        on_worker_loss=command.on_worker_loss,
        attempt=0,
        lost_attempts=0,
        started_at=now,
        last_progress_at=now,
        updated_at=now,
    )


async def _announce(turn: Turn, context: ApiContext) -> Accepted:
    """Create the log, then enqueue, in one round trip: clients see the start without waiting for a worker."""
    started = frames.stream_started(request_id=turn.request_id, message_id=turn.planned_message_id, is_new_turn=True)
    trace = current_trace.get()
    job = RunTurn(turn.id, attempt=1, traceparent=trace.header if trace else None)
    keys = TurnKeys(turn.chat_id, turn.request_id)
    try:
        opened, _ = await run_scripts(
            context.valkey, [context.log.opening(keys, started), context.queue.enqueueing(job)]
        )
    except REDIS_FAILURE as error:
        logger.warning("an accepted turn is left to the sweeper: %r", error, extra={"turn_id": str(turn.id)})
        return Accepted(turn, started, is_logged=False)
    return Accepted(turn, started, is_logged=opened == b"taken")


def title_from(content: str) -> str:
    """The beginning of a first message, on one line."""
    return " ".join(content.split())[:TITLE_LENGTH].strip()

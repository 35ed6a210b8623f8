"""What every new turn goes through, whether it is sent, retried or edited: checks that leave no trace, the rows of one
transaction, then the log and the queue.

The rows are the promise: once they are committed the turn ends, whatever happens to this process. A worker finds a row
whose job was lost, which is why nothing that fails after the commit is an error here.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncSession

from api.auth import Principal
from api.context import ApiContext
from shared.attachments.tables import Attachment
from shared.events.frames import Frame
from shared.ids import ChatId, new_uuid4
from shared.messages.tables import Message, MessageAttachment
from shared.queue.jobs import RunTurn
from shared.quotas.effective_model import ModelDecision, decide_model
from shared.quotas.estimation import budgets_of, estimate_text, max_output_tokens
from shared.settings import OnDisconnect, OnWorkerLoss
from shared.trace import current_trace
from shared.turns.context import check_mandatory
from shared.turns.errors import InputTooLongError, InvalidAttachmentError, WebSearchDisabledError
from shared.turns.frames import started_frame
from shared.turns.lifecycle import TurnState
from shared.turns.tables import Turn
from shared.valkey.client import REDIS_FAILURE
from shared.valkey.keyspace import TurnKeys
from shared.valkey.scripts import run_scripts

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TurnRequest:
    """What a new turn is to be."""

    chat_id: ChatId
    request_id: UUID
    content: str
    attachment_ids: tuple[UUID, ...]
    is_web_search_wanted: bool
    on_disconnect: OnDisconnect
    on_worker_loss: OnWorkerLoss


@dataclass(frozen=True, slots=True)
class Admission:
    """The decisions that are made once, before the turn exists, and stored with it."""

    model: ModelDecision
    policy_version: int


@dataclass(frozen=True, slots=True)
class Accepted:
    """A new turn. `started` is in the log already if `is_logged`."""

    turn: Turn
    started: Frame
    is_logged: bool


async def is_valkey_there(context: ApiContext) -> bool:
    """One round trip before anything is written: without Valkey no turn is taken on."""
    try:
        await context.valkey.ping()
    except REDIS_FAILURE as error:
        logger.warning("Valkey does not answer: %r", error)
        return False
    return True


async def admit(request: TurnRequest, selected_model: str, principal: Principal, context: ApiContext) -> Admission:
    """Check the request against policy and limits, in a fixed order, without a trace.

    Raises:
        ChatError: it is refused.
    """
    catalog = context.catalog.current
    if request.attachment_ids:
        async with context.sessions() as session:
            await check_attachments(session, request, principal)
    if request.is_web_search_wanted and catalog.kill_switches.disable_web_search:
        raise WebSearchDisabledError
    decision = decide_model(catalog, selected_model, is_affordable=lambda _: True)
    _check_length(request.content, decision, context)
    return Admission(decision, catalog.policy_version)


async def check_attachments(
    session: AsyncSession, request: TurnRequest, principal: Principal, *, lock: bool = False
) -> Sequence[Attachment]:
    """The attachments, all of them ready and the caller's own; locked against deletion if asked.

    Raises:
        InvalidAttachmentError: one is not.
    """
    statement = select(Attachment).where(
        Attachment.id.in_(request.attachment_ids),
        Attachment.tenant_id == principal.tenant_id,
        Attachment.chat_id == request.chat_id,
        Attachment.uploaded_by_user_id == principal.user_id,
        Attachment.deleted_at.is_(None),
        Attachment.status == "ready",
    )
    if lock:
        statement = statement.order_by(Attachment.id).with_for_update(read=True)
    found = (await session.execute(statement)).scalars().all()
    if len(found) != len(request.attachment_ids):
        raise InvalidAttachmentError
    return found


def _check_length(content: str, decision: ModelDecision, context: ApiContext) -> None:
    model = decision.model
    budgets = budgets_of(model, context.settings)
    tokens = estimate_text(content, budgets)
    if tokens > model.max_input_tokens:
        raise InputTooLongError(current=tokens, maximum=model.max_input_tokens)
    check_mandatory(
        model=model,
        budgets=budgets,
        max_output_tokens=max_output_tokens(model, context.settings),
        user_text=content,
    )


async def insert_turn(
    session: AsyncSession,
    request: TurnRequest,
    admission: Admission,
    principal: Principal,
    context: ApiContext,
    *,
    now: datetime,
) -> Turn:
    """Write the turn, its user message and its attachments. The caller has locked the chat's row.

    Raises:
        IntegrityError: the request id is taken, or another turn runs in the chat.
    """
    if request.attachment_ids:
        await check_attachments(session, request, principal, lock=True)
    turn = _new_turn(request, admission, principal, context, now)
    session.add(turn)
    await session.flush()
    message_id = new_uuid4()
    await session.execute(
        insert(Message).values(
            id=message_id,
            tenant_id=principal.tenant_id,
            chat_id=request.chat_id,
            request_id=request.request_id,
            role="user",
            content=request.content,
            request_kind="chat",
            created_at=now,
        )
    )
    if request.attachment_ids:
        links = [
            {
                "tenant_id": principal.tenant_id,
                "chat_id": request.chat_id,
                "message_id": message_id,
                "attachment_id": attachment_id,
                "created_at": now,
            }
            for attachment_id in request.attachment_ids
        ]
        await session.execute(insert(MessageAttachment), links)
    return turn


def _new_turn(
    request: TurnRequest, admission: Admission, principal: Principal, context: ApiContext, now: datetime
) -> Turn:
    today = context.clock.now().date()
    decision = admission.model
    return Turn(
        id=new_uuid4(),
        tenant_id=principal.tenant_id,
        chat_id=request.chat_id,
        request_id=request.request_id,
        requester_type="user",
        requester_user_id=principal.user_id,
        state=TurnState.RUNNING,
        provider_name=decision.model.provider_id,
        planned_message_id=new_uuid4(),
        max_output_tokens_applied=max_output_tokens(decision.model, context.settings),
        policy_version_applied=admission.policy_version,
        effective_model=decision.model.id,
        minimal_generation_floor_applied=context.settings.estimation_budgets.minimal_generation_floor,
        daily_period_start=today,
        monthly_period_start=today.replace(day=1),
        quota_decision=decision.decision,
        downgrade_from=decision.downgrade_from,
        downgrade_reason=decision.downgrade_reason,
        web_search_enabled=request.is_web_search_wanted,
        on_disconnect=request.on_disconnect,
        on_worker_loss=request.on_worker_loss,
        attempt=0,
        lost_attempts=0,
        started_at=now,
        last_progress_at=now,
        updated_at=now,
    )


async def announce(turn: Turn, context: ApiContext) -> Accepted:
    """Create the log, then enqueue, in one round trip: clients see the start without waiting for a worker."""
    started = started_frame(turn)
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

"""What every new turn goes through, whether it is sent, retried or edited: checks that leave no trace, the rows of one
transaction, then the log and the queue.

The rows are the promise: once they are committed the turn ends, whatever happens to this process. A worker finds a row
whose job was lost, which is why nothing that fails after the commit is an error here.

Locks are taken in the order of every transaction: the chat's row (by the caller), attachments, the user's buckets in
the order of `BucketKey`, then inserts. A user's sends wait for each other at the buckets, and for nobody else.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from api.auth import Principal
from api.context import ApiContext
from api.limits.limiter import Entry
from api.limits.places import Place
from api.turns.admission import Admission, Case
from api.turns.attached import Images, check_attachments, check_images
from api.turns.insertion import insert_running_turn
from api.turns.metrics import count_accepted, counting_decision, counting_refusals
from api.turns.send_view import SendView, load_send_view
from shared.db.engine import single_statement
from shared.events.frames import Frame
from shared.ids import ChatId
from shared.queue.jobs import RunTurn
from shared.quotas.periods import period_start
from shared.quotas.repository import Account, QuotaRepository
from shared.quotas.reserve import Standing
from shared.settings import OnDisconnect, OnWorkerLoss
from shared.trace import current_traceparent
from shared.turns.errors import InvalidAttachmentError, WebSearchDisabledError
from shared.turns.frames import started_frame
from shared.turns.tables import Turn
from shared.valkey.client import REDIS_FAILURE
from shared.valkey.keyspace import TurnKeys
from shared.valkey.scripts import run_scripts

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TurnRequest:
    """What a new turn is to be.

    Attributes:
        account: whose credits it uses, in the periods in which it was asked for.
        replaced: the request id of the turn that it takes the place of.
    """

    chat_id: ChatId
    request_id: UUID
    content: str
    attachment_ids: tuple[UUID, ...]
    is_web_search_wanted: bool
    on_disconnect: OnDisconnect
    on_worker_loss: OnWorkerLoss
    replaced: UUID | None = None


@dataclass(frozen=True, slots=True)
class Admitted:
    """A request that nothing speaks against yet. The account's periods are those of its first moment, to its end."""

    case: Case
    early: Admission
    account: Account
    summary_token_estimate: int | None


@dataclass(frozen=True, slots=True)
class Accepted:
    """A new turn. `started` is in the log already if `is_logged`; `place` is that of its first stream."""

    turn: Turn
    started: Frame
    is_logged: bool
    place: Place | None


def account_of(principal: Principal, context: ApiContext) -> Account:
    """The caller's buckets as of now."""
    now = context.clock.now()
    return Account(principal.tenant_id, principal.user_id, period_start("daily", now), period_start("monthly", now))


async def view_for(request: TurnRequest, account: Account, context: ApiContext) -> SendView | None:
    """What is known of the request's chat; None if it is absent or not the caller's."""
    async with single_statement(context.sessions) as session:
        return await load_send_view(
            session,
            account,
            chat_id=request.chat_id,
            request_id=request.request_id,
            replaced=request.replaced,
        )


async def admit(
    request: TurnRequest, view: SendView, account: Account, principal: Principal, context: ApiContext
) -> Admitted:
    """Check the request against policy and limits, in a fixed order, without a trace.

    Raises:
        ChatError: it is refused.
        CreditsOverflowError: what it would cost is out of bounds.
    """
    with counting_refusals(context.metrics):
        return await _check(request, view, account, principal, context)


async def _check(
    request: TurnRequest, view: SendView, account: Account, principal: Principal, context: ApiContext
) -> Admitted:
    catalog = context.catalog.current
    images = Images()
    if request.attachment_ids:
        async with single_statement(context.sessions) as session:
            images = await check_attachments(
                session, request.attachment_ids, chat_id=request.chat_id, principal=principal
            )
    check_images(images, context.settings.rag)
    if request.is_web_search_wanted and catalog.kill_switches.disable_web_search:
        raise WebSearchDisabledError
    case = Case(
        content=request.content,
        selected_model=view.chat.model,
        images=images.count,
        is_web_search_wanted=request.is_web_search_wanted,
        prior_context_tokens=view.prior_context_tokens,
        files=view.files,
        catalog=catalog,
        limits=await context.policies.limits(principal.tenant_id, principal.user_id, catalog.policy_version),
        settings=context.settings,
    )
    early = _decide(case, view.standing, context)
    case.check_content(early)
    return Admitted(case, early, account, view.summary_token_estimate)


async def insert_turn(
    session: AsyncSession,
    request: TurnRequest,
    admitted: Admitted,
    principal: Principal,
    context: ApiContext,
    *,
    now: datetime,
) -> Turn:
    """Reserve, and write the turn with its user message. The caller has locked the chat's row.

    Raises:
        ChatError: attachments or quotas have changed since the request was admitted.
        IntegrityError: the request id is taken, or another turn runs in the chat.
    """
    images = await check_attachments(
        session, request.attachment_ids, chat_id=request.chat_id, principal=principal, lock=True
    )
    if images.count != admitted.case.images:
        raise InvalidAttachmentError
    admission = await _reserve(session, admitted, context)
    decided = _columns(request, admission, admitted, context)
    return await insert_running_turn(
        session, decided, content=request.content, attachment_ids=request.attachment_ids, now=now
    )


async def _reserve(session: AsyncSession, admitted: Admitted, context: ApiContext) -> Admission:
    """Take the reserve that was decided on early; if the locked rows say otherwise, the one that they allow."""
    case, early = admitted.case, admitted.early
    quotas = QuotaRepository(session)
    standing = await quotas.reserve(admitted.account, {key: early.amount_in(key) for key in case.buckets})
    admission = _decide(case, standing, context)
    if admission.decision.model is not early.decision.model:
        case.check_content(admission)
        await quotas.move_reserve(
            admitted.account, {key: admission.amount_in(key) - early.amount_in(key) for key in case.buckets}
        )
    return admission


def _decide(case: Case, standing: Standing, context: ApiContext) -> Admission:
    with counting_decision(context.metrics, case):
        return case.decide(standing)


def _columns(request: TurnRequest, admission: Admission, admitted: Admitted, context: ApiContext) -> Mapping[str, Any]:
    account, decision, reserve = admitted.account, admission.decision, admission.reserve
    return {
        "tenant_id": account.tenant_id,
        "chat_id": request.chat_id,
        "request_id": request.request_id,
        "requester_user_id": account.user_id,
        "provider_name": decision.model.provider_id,
        "reserve_tokens": reserve.tokens,
        "max_output_tokens_applied": reserve.max_output_tokens,
        "reserved_credits_micro": reserve.credits_micro,
        "policy_version_applied": admission.policy_version,
        "effective_model": decision.model.id,
        "minimal_generation_floor_applied": context.settings.estimation_budgets.minimal_generation_floor,
        "daily_period_start": account.daily_start,
        "monthly_period_start": account.monthly_start,
        "quota_decision": decision.decision,
        "downgrade_from": decision.downgrade_from,
        "downgrade_reason": decision.downgrade_reason,
        "web_search_enabled": request.is_web_search_wanted,
        "file_search_included": admission.tools.file_search,
        "code_interpreter_included": admission.tools.code_interpreter,
        "image_inputs": admission.images,
        "summary_token_estimate": admitted.summary_token_estimate,
        "on_disconnect": request.on_disconnect,
        "on_worker_loss": request.on_worker_loss,
    }


async def announce(turn: Turn, admitted: Admitted, entry: Entry, context: ApiContext) -> Accepted:
    """Create the log, then enqueue, in one round trip: clients see the start without waiting for a worker."""
    count_accepted(context.metrics, turn, admitted.case)
    started = started_frame(turn)
    job = RunTurn(turn.id, attempt=1, traceparent=current_traceparent())
    keys = TurnKeys(turn.chat_id, turn.request_id)
    try:
        opened, _ = await run_scripts(
            context.valkey, [context.log.opening(keys, started), context.queue.enqueueing(job, place=entry.name)]
        )
    except REDIS_FAILURE as error:
        logger.warning("an accepted turn is left to the sweeper: %r", error, extra={"turn_id": str(turn.id)})
        return Accepted(turn, started, False, entry.stream)
    return Accepted(turn, started, opened == b"taken", entry.stream)

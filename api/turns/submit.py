"""Sends a message: a new turn, or the one that the request id already names."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from sqlalchemy import func, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from api.auth import Principal
from api.context import ApiContext
from api.turns.preflight import Accepted, Admission, TurnRequest, admit, announce, insert_turn, is_valkey_there
from shared.chats.errors import ChatNotFoundError
from shared.chats.tables import Chat
from shared.db.transaction import run_transaction
from shared.errors import UnavailableError
from shared.turns.errors import GenerationInProgressError, RequestIdConflictError
from shared.turns.lifecycle import TurnState
from shared.turns.repository import SendView, TurnRepository
from shared.turns.tables import Turn

TITLE_LENGTH = 60
"""How much of its first message a chat without a title is called by."""


@dataclass(frozen=True, slots=True)
class Existing:
    """The turn that the request id already names; it is to be replayed or attached to."""

    turn: Turn


async def submit_turn(
    request: TurnRequest, principal: Principal, context: ApiContext, *, may_attach: bool
) -> Accepted | Existing:
    """Accept a turn, or find the one that the request id names.

    Args:
        may_attach: the client named a place in the stream: a turn that exists is joined, in whatever state it is.

    Raises:
        ChatError: the request is refused and has left no trace.
    """
    view, can_be_queued = await asyncio.gather(
        _find(request, principal, context, may_attach=may_attach), is_valkey_there(context)
    )
    if isinstance(view, Existing):
        return view
    if view.running_turn_id is not None:
        raise GenerationInProgressError
    admission = await admit(request, view.chat.model, principal, context)
    if not can_be_queued:
        raise UnavailableError
    turn = await _commit(request, admission, principal, context, may_attach=may_attach)
    return turn if isinstance(turn, Existing) else await announce(turn, context)


async def find_existing(
    request: TurnRequest, principal: Principal, context: ApiContext, *, may_attach: bool
) -> Existing | None:
    """The turn that the request id names, if it may be replayed or joined; None if the id is new.

    Raises:
        ChatNotFoundError: the chat is absent or not the caller's.
        RequestIdConflictError: the id is used up.
    """
    view = await _find(request, principal, context, may_attach=may_attach)
    return view if isinstance(view, Existing) else None


async def _find(
    request: TurnRequest, principal: Principal, context: ApiContext, *, may_attach: bool
) -> SendView | Existing:
    """The request id is looked at first: a finished turn is replayed even while another one runs."""
    async with context.sessions() as session:
        view = await TurnRepository(session).find_for_send(
            chat_id=request.chat_id,
            tenant_id=principal.tenant_id,
            user_id=principal.user_id,
            request_id=request.request_id,
        )
    if view is None:
        raise ChatNotFoundError
    if view.turn is None:
        return view
    if view.turn.deleted_at is None and (may_attach or view.turn.state == TurnState.COMPLETED):
        return Existing(view.turn)
    raise RequestIdConflictError


async def _commit(
    request: TurnRequest, admission: Admission, principal: Principal, context: ApiContext, *, may_attach: bool
) -> Turn | Existing:
    """The preflight transaction; a request that lost a race is answered as if it had come after the winner."""
    for _ in range(2):
        try:
            return await run_transaction(
                context.sessions, lambda session: _insert(session, request, admission, principal, context)
            )
        except IntegrityError:
            view = await _find(request, principal, context, may_attach=may_attach)
            if isinstance(view, Existing):
                return view
            if view.running_turn_id is not None:
                break
    raise GenerationInProgressError


async def _insert(
    session: AsyncSession, request: TurnRequest, admission: Admission, principal: Principal, context: ApiContext
) -> Turn:
    """Locks in the order of every transaction: the chat's row first."""
    now = await session.scalar(
        update(Chat)
        .where(Chat.id == request.chat_id, Chat.deleted_at.is_(None))
        .values(
            updated_at=func.clock_timestamp(),
            title=func.coalesce(Chat.title, title_from(request.content)),
        )
        .returning(Chat.updated_at)
    )
    if now is None:
        raise ChatNotFoundError
    return await insert_turn(session, request, admission, principal, context, now=now)


def title_from(content: str) -> str:
    """The beginning of a first message, on one line."""
    return " ".join(content.split())[:TITLE_LENGTH].strip()

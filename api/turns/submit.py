"""Sends a message: a new turn, or the one that the request id already names."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from sqlalchemy import String, Update, Uuid, bindparam, func, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from api.auth import Principal
from api.context import ApiContext
from api.turns.preflight import (
    Accepted,
    Admitted,
    TurnRequest,
    account_of,
    admit,
    announce,
    insert_turn,
    view_for,
)
from api.turns.send_view import SendView
from shared.chats.errors import ChatNotFoundError
from shared.chats.tables import Chat
from shared.db.transaction import run_transaction
from shared.errors import UnavailableError
from shared.quotas.repository import Account
from shared.turns.errors import GenerationInProgressError, RequestIdConflictError
from shared.turns.lifecycle import TurnState
from shared.turns.tables import Turn
from shared.valkey.keyspace import TurnKeys

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
    account = account_of(principal, context)
    view, is_there = await asyncio.gather(
        find_existing(request, account, context, may_attach=may_attach), context.limiter.is_valkey_there()
    )
    if isinstance(view, Existing):
        return view
    if view.running_turn_id is not None:
        raise GenerationInProgressError
    keys = TurnKeys(request.chat_id, request.request_id)
    async with context.limiter.entering(principal, keys, is_valkey_there=is_there) as entry:
        admitted = await admit(request, view, account, principal, context)
        if not entry.is_answered:
            raise UnavailableError
        turn = await _commit(request, admitted, principal, context, may_attach=may_attach)
        if isinstance(turn, Existing):
            entry.give_back()
            return turn
    return await announce(turn, admitted, entry, context)


async def find_existing(
    request: TurnRequest, account: Account, context: ApiContext, *, may_attach: bool
) -> SendView | Existing:
    """The turn that the request id names, if it may be replayed or joined; what is known of the chat if the id is new.

    The id is looked at first of all: a finished turn is replayed even while another one runs.

    Raises:
        ChatNotFoundError: the chat is absent or not the caller's.
        RequestIdConflictError: the id is used up.
    """
    view = await view_for(request, account, context)
    if view is None:
        raise ChatNotFoundError
    if view.turn is None:
        return view
    if view.turn.deleted_at is None and (may_attach or view.turn.state == TurnState.COMPLETED):
        return Existing(view.turn)
    raise RequestIdConflictError


async def _commit(
    request: TurnRequest, admitted: Admitted, principal: Principal, context: ApiContext, *, may_attach: bool
) -> Turn | Existing:
    """The preflight transaction; a request that lost a race is answered as if it had come after the winner."""
    for _ in range(2):
        try:
            return await run_transaction(
                context.sessions, lambda session: _insert(session, request, admitted, principal, context)
            )
        except IntegrityError:
            view = await find_existing(request, admitted.account, context, may_attach=may_attach)
            if isinstance(view, Existing):
                return view
            if view.running_turn_id is not None:
                break
    raise GenerationInProgressError


async def _insert(
    session: AsyncSession, request: TurnRequest, admitted: Admitted, principal: Principal, context: ApiContext
) -> Turn:
    """Locks in the order of every transaction: the chat's row first."""
    now = await session.scalar(_TOUCH_CHAT, {"chat": request.chat_id, "new_title": title_from(request.content)})
    if now is None:
        raise ChatNotFoundError
    return await insert_turn(session, request, admitted, principal, context, now=now)


def _touch_chat() -> Update:
    return (
        update(Chat)
        .where(Chat.id == bindparam("chat", type_=Uuid), Chat.deleted_at.is_(None))
        .values(
            updated_at=func.clock_timestamp(),
            title=func.coalesce(Chat.title, bindparam("new_title", type_=String)),
        )
        .returning(Chat.updated_at)
        .execution_options(synchronize_session=False)
    )


_TOUCH_CHAT = _touch_chat()


def title_from(content: str) -> str:
    """The beginning of a first message, on one line."""
    return " ".join(content.split())[:TITLE_LENGTH].strip()

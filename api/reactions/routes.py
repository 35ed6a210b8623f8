from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Response

from api.auth import Action, Principal
from api.dependencies import ChatIdPath, Context, MessageIdPath, require
from api.json_route import JsonRoute
from api.problems import problem_responses
from api.reactions import use_cases
from api.reactions.schemas import ReactionDetail, SetReaction
from shared.chats.errors import ChatNotFoundError
from shared.errors import TooLargeError
from shared.messages.errors import MessageNotFoundError
from shared.reactions.errors import InvalidReactionTargetError

router = APIRouter(tags=["reactions"], route_class=JsonRoute)

_PATH = "/chats/{chat_id}/messages/{message_id}/reaction"


@router.put(
    _PATH,
    responses=problem_responses(ChatNotFoundError, MessageNotFoundError, InvalidReactionTargetError, TooLargeError),
)
async def set_reaction(
    chat_id: ChatIdPath,
    message_id: MessageIdPath,
    body: SetReaction,
    context: Context,
    principal: Annotated[Principal, Depends(require(Action.SET_REACTION))],
) -> ReactionDetail:
    """Like or dislike an answer; the caller's earlier reaction to it is replaced."""
    created_at = await use_cases.set_reaction(
        principal, chat_id, message_id, body.reaction, sessions=context.sessions, clock=context.clock
    )
    return ReactionDetail(message_id=message_id, reaction=body.reaction, created_at=created_at)


@router.delete(
    _PATH,
    status_code=204,
    response_class=Response,
    responses=problem_responses(ChatNotFoundError, MessageNotFoundError),
)
async def delete_reaction(
    chat_id: ChatIdPath,
    message_id: MessageIdPath,
    context: Context,
    principal: Annotated[Principal, Depends(require(Action.DELETE_REACTION))],
) -> None:
    """Take the caller's reaction away, whether or not there is one."""
    await use_cases.delete_reaction(principal, chat_id, message_id, sessions=context.sessions)

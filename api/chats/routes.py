from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Response

from api.auth import Action, Principal
from api.chats import use_cases
from api.chats.schemas import ChatDetail, ChatList, CreateChat, RenameChat
from api.dependencies import ChatIdPath, Context, require
from api.json_route import JsonRoute
from api.listing import PageQuery
from api.problems import problem_responses
from api.schemas import page_info
from shared.chats import deletion
from shared.chats.errors import ChatNotFoundError
from shared.errors import TooLargeError
from shared.model_catalog.errors import InvalidModelError

router = APIRouter(tags=["chats"], route_class=JsonRoute)

_CREATED: Final[dict[int | str, dict[str, Any]]] = {
    201: {"headers": {"Location": {"description": "The path of the chat.", "schema": {"type": "string"}}}}
}


@router.post(
    "/chats",
    status_code=201,
    responses=_CREATED | problem_responses(InvalidModelError, TooLargeError),
)
async def create_chat(
    body: CreateChat,
    context: Context,
    principal: Annotated[Principal, Depends(require(Action.CREATE))],
    response: Response,
) -> ChatDetail:
    """Begin a chat. Without a title, the first message gives it one."""
    chat = await use_cases.create_chat(
        principal,
        title=body.title,
        model=body.model,
        catalog=context.catalog.current,
        sessions=context.sessions,
        clock=context.clock,
    )
    detail = ChatDetail.of(chat)
    response.headers["Location"] = f"{context.settings.prefix}{context.settings.base_path}/chats/{detail.id}"
    return detail


@router.get("/chats", responses=problem_responses())
async def list_chats(
    query: PageQuery, context: Context, principal: Annotated[Principal, Depends(require(Action.LIST))]
) -> ChatList:
    """The caller's chats by their last activity, newest first."""
    page = await use_cases.list_chats(principal, query, sessions=context.sessions)
    return ChatList(items=tuple(ChatDetail.of(chat) for chat in page.items), page_info=page_info(page))


@router.get("/chats/{chat_id}", responses=problem_responses(ChatNotFoundError))
async def get_chat(
    chat_id: ChatIdPath, context: Context, principal: Annotated[Principal, Depends(require(Action.READ))]
) -> ChatDetail:
    """One chat."""
    return ChatDetail.of(await use_cases.get_chat(principal, chat_id, sessions=context.sessions))


@router.patch("/chats/{chat_id}", responses=problem_responses(ChatNotFoundError, TooLargeError))
async def rename_chat(
    chat_id: ChatIdPath,
    body: RenameChat,
    context: Context,
    principal: Annotated[Principal, Depends(require(Action.UPDATE))],
) -> ChatDetail:
    """Give a chat another title. Its model stays what it is."""
    chat = await use_cases.rename_chat(principal, chat_id, body.title, sessions=context.sessions, clock=context.clock)
    return ChatDetail.of(chat)


@router.delete(
    "/chats/{chat_id}", status_code=204, response_class=Response, responses=problem_responses(ChatNotFoundError)
)
async def delete_chat(
    chat_id: ChatIdPath, context: Context, principal: Annotated[Principal, Depends(require(Action.DELETE))]
) -> None:
    """Delete a chat with all that is in it."""
    await deletion.delete_chat(
        chat_id,
        tenant_id=principal.tenant_id,
        user_id=principal.user_id,
        sessions=context.sessions,
        clock=context.clock,
        stopper=context.stopper,
    )

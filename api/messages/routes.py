from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from fastapi import APIRouter, Depends, Response

from api.auth import Action, Principal
from api.dependencies import ChatIdPath, Context, require
from api.listing import SearchQuery
from api.messages import use_cases
from api.messages.schemas import MessageList
from api.problems import problem_responses
from shared.chats.errors import ChatNotFoundError

router = APIRouter(tags=["messages"])


@router.get("/chats/{chat_id}/messages", response_model=MessageList, responses=problem_responses(ChatNotFoundError))
async def list_messages(
    chat_id: ChatIdPath,
    query: SearchQuery,
    context: Context,
    principal: Annotated[Principal, Depends(require(Action.LIST_MESSAGES))],
) -> Response:
    """The history of a chat, oldest message first unless ordered otherwise."""
    history = await use_cases.list_messages(principal, chat_id, query, sessions=context.sessions)
    include: Mapping[str, Mapping[str, set[str]] | bool] | None = None
    if history.select is not None:
        include = {"items": {"__all__": set(history.select)}, "page_info": True}
    return Response(history.page.model_dump_json(include=include), media_type="application/json")

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Header, Query
from pydantic.json_schema import SkipJsonSchema
from starlette.responses import Response

from api.auth import Action, Principal
from api.context import ApiContext
from api.dependencies import ChatIdPath, Context, RequestIdPath, require
from api.json_route import JsonRoute
from api.limits.errors import QueueFullError
from api.problems import problem_responses
from api.sse import SSE_MEDIA_TYPE
from api.turns.attach import attach, replay
from api.turns.cancel import stop_turn
from api.turns.mutate import ReplaceTurn, delete_turn, replace_turn
from api.turns.preflight import Accepted, TurnRequest
from api.turns.relay import EventStreamResponse
from api.turns.schemas import EVENT_ID_PATTERN, EVENT_SCHEMA, EditTurn, ReplacementOptions, SendMessage, TurnStatus
from api.turns.submit import Existing, submit_turn
from shared.attachments.errors import ImagesDisabledError
from shared.chats.errors import ChatNotFoundError
from shared.errors import FieldError, InvalidError, TooLargeError
from shared.events.ids import Cursor, parse_cursor
from shared.ids import new_uuid4
from shared.logs import add_log_fields
from shared.quotas.errors import QuotaExceededError
from shared.turns.errors import (
    ContextBudgetExceededError,
    GenerationInProgressError,
    ImageBytesExceededError,
    InputTooLongError,
    InvalidAttachmentError,
    InvalidTurnStateError,
    NotLatestTurnError,
    RequestIdConflictError,
    TooManyImagesError,
    TurnNotFoundError,
    UnsupportedMediaError,
    WebSearchDisabledError,
)
from shared.turns.lifecycle import TurnState
from shared.turns.log_fields import fields_of
from shared.turns.repository import TurnRepository
from shared.turns.tables import Turn
from shared.valkey.keyspace import TurnKeys

router = APIRouter(tags=["turns"], route_class=JsonRoute)

_STREAM: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": (
            "Server-sent events: `stream_started`, then `ping`, `delta`, `tool` and `restart` as they come, "
            "`citations` at most once, and one `done` or `error`. `stream_started` and `restart` mean: drop what "
            "came before."
        ),
        "content": {SSE_MEDIA_TYPE: {"schema": EVENT_SCHEMA}},
    }
}

_NOT_FOUND: Final = (ChatNotFoundError, TurnNotFoundError)
_SEND_ERRORS: Final = (
    *_NOT_FOUND,
    RequestIdConflictError,
    GenerationInProgressError,
    InvalidAttachmentError,
    TooManyImagesError,
    ImagesDisabledError,
    WebSearchDisabledError,
    TooLargeError,
    ImageBytesExceededError,
    UnsupportedMediaError,
    InputTooLongError,
    ContextBudgetExceededError,
    QuotaExceededError,
    QueueFullError,
)
_SEND_PROBLEMS: Final = problem_responses(*_SEND_ERRORS)
_REPLACEMENT_PROBLEMS: Final = problem_responses(*_SEND_ERRORS, InvalidTurnStateError, NotLatestTurnError)

_ABOUT_TO_END: Final[dict[int | str, dict[str, Any]]] = {
    202: {"model": TurnStatus, "description": "The turn is about to end"}
}

LastEventId = Annotated[
    str | SkipJsonSchema[None],
    Header(
        alias="Last-Event-ID",
        description="Go on after this event; empty: from the start.",
        json_schema_extra={"pattern": f"^({EVENT_ID_PATTERN})?$"},
    ),
]


@router.post(
    "/chats/{chat_id}/messages:stream",
    response_class=Response,
    responses=_STREAM | _SEND_PROBLEMS,
)
async def send_message(
    chat_id: ChatIdPath,
    body: SendMessage,
    context: Context,
    principal: Annotated[Principal, Depends(require(Action.SEND_MESSAGE))],
    last_event_id: LastEventId = None,
) -> Response:
    """Ask, and stream the answer. The same `request_id` again replays the turn or, with `Last-Event-ID`, joins it."""
    streaming = context.settings.streaming
    turn_request = TurnRequest(
        chat_id=chat_id,
        request_id=body.request_id or new_uuid4(),
        content=body.content,
        attachment_ids=body.attachment_ids,
        is_web_search_wanted=body.web_search.enabled,
        on_disconnect=body.on_disconnect or streaming.on_disconnect,
        on_worker_loss=body.on_worker_loss or context.settings.turns.on_worker_loss,
    )
    cursor = _cursor_of(last_event_id)
    result = await submit_turn(turn_request, principal, context, may_attach=last_event_id is not None)
    return await _stream(result, last_event_id, cursor, principal, context)


@router.post(
    "/chats/{chat_id}/turns/{request_id}/retry",
    response_class=Response,
    responses=_STREAM | _REPLACEMENT_PROBLEMS,
)
async def retry_turn(
    chat_id: ChatIdPath,
    request_id: RequestIdPath,
    context: Context,
    principal: Annotated[Principal, Depends(require(Action.RETRY_TURN))],
    options: Annotated[ReplacementOptions, Query()],
    last_event_id: LastEventId = None,
) -> Response:
    """Ask the last question again; the new turn takes the place of the old one. Any body is ignored."""
    return await _replace(chat_id, request_id, None, options, last_event_id, principal, context)


@router.patch(
    "/chats/{chat_id}/turns/{request_id}",
    response_class=Response,
    responses=_STREAM | _REPLACEMENT_PROBLEMS,
)
async def edit_turn(
    chat_id: ChatIdPath,
    request_id: RequestIdPath,
    body: EditTurn,
    context: Context,
    principal: Annotated[Principal, Depends(require(Action.EDIT_TURN))],
    options: Annotated[ReplacementOptions, Query()],
    last_event_id: LastEventId = None,
) -> Response:
    """Replace the last question by another text and ask that."""
    return await _replace(chat_id, request_id, body.content, options, last_event_id, principal, context)


@router.delete(
    "/chats/{chat_id}/turns/{request_id}",
    status_code=204,
    response_class=Response,
    responses=problem_responses(*_NOT_FOUND, InvalidTurnStateError, NotLatestTurnError),
)
async def remove_turn(
    chat_id: ChatIdPath,
    request_id: RequestIdPath,
    context: Context,
    principal: Annotated[Principal, Depends(require(Action.DELETE_TURN))],
) -> None:
    """Delete the last turn with its messages; the one before becomes the last."""
    await delete_turn(chat_id, request_id, principal, context)


@router.get("/chats/{chat_id}/turns/{request_id}", responses=problem_responses(*_NOT_FOUND))
async def get_turn(
    chat_id: ChatIdPath,
    request_id: RequestIdPath,
    context: Context,
    principal: Annotated[Principal, Depends(require(Action.READ_TURN))],
) -> TurnStatus:
    """How a turn stands. Deleted and replaced turns stay readable here."""
    return TurnStatus.of(await _get_turn(chat_id, request_id, principal, context))


@router.get(
    "/chats/{chat_id}/turns/{request_id}/events",
    response_class=Response,
    responses=_STREAM
    | {204: {"description": "There is nothing after this event: do not come back."}}
    | problem_responses(*_NOT_FOUND),
)
async def stream_events(
    chat_id: ChatIdPath,
    request_id: RequestIdPath,
    context: Context,
    principal: Annotated[Principal, Depends(require(Action.READ_TURN, with_cookie=True))],
    last_event_id: LastEventId = None,
    last_event_id_query: Annotated[
        str | SkipJsonSchema[None],
        Query(
            alias="last_event_id",
            description="As the header, which wins.",
            json_schema_extra={"pattern": f"^({EVENT_ID_PATTERN})?$"},
        ),
    ] = None,
) -> Response:
    """Attach to a turn, resume it after an event, or replay it once it has ended."""
    of_query = _cursor_of(last_event_id_query)
    cursor = of_query if last_event_id is None else _cursor_of(last_event_id)
    turn = await _get_turn(chat_id, request_id, principal, context)
    if turn.deleted_at is not None:
        raise TurnNotFoundError
    return await attach(turn, cursor, principal, source="events", context=context)


@router.post(
    "/chats/{chat_id}/turns/{request_id}/cancel",
    responses=_ABOUT_TO_END | problem_responses(*_NOT_FOUND),
)
async def cancel_turn(
    chat_id: ChatIdPath,
    request_id: RequestIdPath,
    context: Context,
    principal: Annotated[Principal, Depends(require(Action.CANCEL_TURN))],
    response: Response,
) -> TurnStatus:
    """Stop a running turn; what has been shown of its answer is kept. Of an ended turn nothing changes."""
    turn = await stop_turn(await _get_turn(chat_id, request_id, principal, context), context)
    if turn.state == TurnState.RUNNING:
        response.status_code = 202
    return TurnStatus.of(turn)


async def _replace(
    chat_id: ChatIdPath,
    request_id: RequestIdPath,
    content: str | None,
    options: ReplacementOptions,
    last_event_id: str | None,
    principal: Principal,
    context: ApiContext,
) -> Response:
    cursor = _cursor_of(last_event_id)
    command = ReplaceTurn(
        chat_id=chat_id,
        old_request_id=request_id,
        content=content,
        request_id=options.request_id,
        on_disconnect=options.on_disconnect or context.settings.streaming.on_disconnect,
        on_worker_loss=options.on_worker_loss or context.settings.turns.on_worker_loss,
        may_attach=last_event_id is not None,
    )
    result = await replace_turn(command, principal, context)
    return await _stream(result, last_event_id, cursor, principal, context)


async def _stream(
    result: Accepted | Existing,
    last_event_id: str | None,
    cursor: Cursor,
    principal: Principal,
    context: ApiContext,
) -> Response:
    """The stream of a new turn, or of the one that the request id names: joined if a place in it was named."""
    add_log_fields(**fields_of(result.turn))
    if isinstance(result, Accepted):
        return _new_stream(result, context)
    if last_event_id is not None:
        return await attach(result.turn, cursor, principal, source="post", context=context)
    return await replay(result.turn, context=context)


def _new_stream(accepted: Accepted, context: ApiContext) -> Response:
    turn = accepted.turn
    return EventStreamResponse(
        context,
        turn_id=turn.id,
        keys=TurnKeys(turn.chat_id, turn.request_id),
        cursor=None,
        first_frame=accepted.started if accepted.is_logged else None,
        is_awaited=turn.on_disconnect == "cancel",
        place=accepted.place,
    )


async def _get_turn(chat_id: ChatIdPath, request_id: RequestIdPath, principal: Principal, context: ApiContext) -> Turn:
    """The turn, deleted ones included.

    Raises:
        ChatNotFoundError, TurnNotFoundError: absent, or not the caller's.
    """
    async with context.sessions() as session:
        found = await TurnRepository(session).find_in_chat(
            chat_id=chat_id,
            tenant_id=principal.tenant_id,
            user_id=principal.user_id,
            request_id=request_id,
        )
    if found is None:
        raise ChatNotFoundError
    if found[1] is None:
        raise TurnNotFoundError
    return found[1]


def _cursor_of(text: str | None) -> Cursor:
    try:
        return parse_cursor(text)
    except ValueError:
        message = "must be an id that this API has sent"
        raise InvalidError("Last-Event-ID is malformed", errors=[FieldError("Last-Event-ID", message)]) from None

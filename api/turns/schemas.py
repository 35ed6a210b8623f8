from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StrictBool
from pydantic.json_schema import SkipJsonSchema

from api.schemas import Omittable, Timestamp, Uuid
from shared.settings import OnDisconnect, OnWorkerLoss
from shared.turns.lifecycle import TurnState
from shared.turns.tables import Turn

MAX_ATTACHMENTS: Final = 1_000
"""Of one message: far more than a chat usually holds."""

EVENT_ID_PATTERN: Final = "[0-9]{1,10}-[0-9]{1,10}|s-[1-9]"
EVENT_SCHEMA: Final[Mapping[str, Any]] = {
    "type": "object",
    "required": ["id", "event", "data"],
    "properties": {
        "id": {"type": "string", "pattern": f"^({EVENT_ID_PATTERN})$"},
        "event": {
            "enum": ["stream_started", "ping", "delta", "tool", "citations", "restart", "done", "error"],
        },
        "data": {"type": "string", "contentMediaType": "application/json", "contentSchema": {"type": "object"}},
    },
}
"""One event of a stream, as parsers give it: what tools expect of OpenAPI 3.1, which has no word for sequences."""


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be blank")
    return text


def _bounded(ids: Any) -> Any:
    """Before a member is looked at: each that is wrong would be an error of its own, millions in one body."""
    if isinstance(ids, list) and len(ids) > MAX_ATTACHMENTS:
        raise ValueError(f"must have at most {MAX_ATTACHMENTS} members")
    return ids


def _distinct(ids: tuple[Uuid, ...]) -> tuple[Uuid, ...]:
    if len(ids) != len(set(ids)):
        raise ValueError("must be distinct")
    return ids


MessageText = Annotated[
    str,
    AfterValidator(_not_blank),
    Field(description="Stored as it is; not blank.", json_schema_extra={"pattern": r"\S"}),
]


class WebSearch(BaseModel):
    enabled: StrictBool = False


class SendMessage(BaseModel):
    content: MessageText
    request_id: Annotated[Uuid | None, Field(description="Idempotency key and handle of the turn; made if absent.")] = (
        None
    )
    attachment_ids: Annotated[
        tuple[Uuid, ...],
        BeforeValidator(_bounded),
        AfterValidator(_distinct),
        Field(json_schema_extra={"maxItems": MAX_ATTACHMENTS, "uniqueItems": True}),
    ] = ()
    web_search: WebSearch = WebSearch()
    on_disconnect: Annotated[
        OnDisconnect | None, Field(description="What happens to the turn when no client is left.")
    ] = None
    on_worker_loss: Annotated[
        OnWorkerLoss | None,
        Field(description="What happens when a worker dies after text was shown."),
    ] = None


class ReplacementOptions(BaseModel):
    """Of a retry or an edit, in the query."""

    request_id: Annotated[
        Uuid | SkipJsonSchema[None], Field(description="Idempotency key of the new turn; made if absent.")
    ] = None
    on_disconnect: OnDisconnect | SkipJsonSchema[None] = None
    on_worker_loss: OnWorkerLoss | SkipJsonSchema[None] = None


class EditTurn(BaseModel):
    content: MessageText


class TurnStatus(BaseModel):
    model_config = ConfigDict(frozen=True)

    request_id: Uuid
    state: Literal["running", "done", "error", "cancelled"]
    error_code: Annotated[Omittable[str], Field(description="Only of a turn in `error`.")] = None
    assistant_message_id: Annotated[Omittable[Uuid], Field(description="The stored answer, whole or partial.")] = None
    replaced_by_request_id: Annotated[Omittable[Uuid], Field(description="The turn that took its place.")] = None
    updated_at: Timestamp

    @classmethod
    def of(cls, turn: Turn) -> Self:
        state = TurnState(turn.state)
        return cls(
            request_id=turn.request_id,
            state=state.public_name,
            error_code=turn.error_code if state is TurnState.FAILED else None,
            assistant_message_id=turn.assistant_message_id,
            replaced_by_request_id=turn.replaced_by_request_id,
            updated_at=turn.updated_at,
        )

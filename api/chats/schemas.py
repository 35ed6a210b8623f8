from __future__ import annotations

from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from api.schemas import ListAnswer, Omittable, Timestamp, Uuid
from shared.chats.repository import ChatOverview

MAX_TITLE_LENGTH = 255


def _trimmed(title: str) -> str:
    title = title.strip()
    if not 1 <= len(title) <= MAX_TITLE_LENGTH:
        raise ValueError(f"must have 1 to {MAX_TITLE_LENGTH} characters, white space around it not counted")
    return title


Title = Annotated[
    str,
    AfterValidator(_trimmed),
    Field(
        description="Trimmed; 1 to 255 characters.",
        json_schema_extra={"pattern": rf"^\s*\S([\s\S]{{0,{MAX_TITLE_LENGTH - 2}}}\S)?\s*$"},
    ),
]


class CreateChat(BaseModel):
    title: Title | None = None
    model: Annotated[str | None, Field(description="A model of the catalog; fixed for life.")] = None


class RenameChat(BaseModel):
    title: Title


class ChatDetail(BaseModel):
    model_config = ConfigDict(frozen=True)

    id: Uuid
    model: Annotated[str, Field(description="The selected model.")]
    title: Omittable[str] = None
    is_temporary: bool
    message_count: Annotated[int, Field(description="Two for every finished turn.")]
    running_request_id: Annotated[Omittable[Uuid], Field(description="The turn that is running, to attach to.")] = None
    created_at: Timestamp
    updated_at: Timestamp

    @classmethod
    def of(cls, overview: ChatOverview) -> Self:
        chat = overview.chat
        return cls(
            id=chat.id,
            model=chat.model,
            title=chat.title,
            is_temporary=chat.is_temporary,
            message_count=overview.message_count,
            running_request_id=overview.running_request_id,
            created_at=chat.created_at,
            updated_at=chat.updated_at,
        )


class ChatList(ListAnswer[ChatDetail]):
    """Chats by their last activity, newest first."""

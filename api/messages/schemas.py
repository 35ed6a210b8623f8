from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from api.attachments.schemas import SHOWN_STATUS, ShownStatus, Thumbnail
from api.schemas import ListAnswer, Omittable, Timestamp, Uuid
from shared.attachments.tables import Attachment
from shared.messages.tables import Message


class AttachmentOfMessage(BaseModel):
    attachment_id: Uuid
    kind: Literal["document", "image"]
    filename: str
    status: ShownStatus
    img_thumbnail: Omittable[Thumbnail] = None

    @classmethod
    def of(cls, attachment: Attachment) -> Self:
        return cls.model_validate(
            {
                "attachment_id": attachment.id,
                "kind": attachment.attachment_kind,
                "filename": attachment.filename,
                "status": SHOWN_STATUS[attachment.status],
                "img_thumbnail": Thumbnail.of(attachment),
            }
        )


class MessageDetail(BaseModel):
    model_config = ConfigDict(frozen=True)

    id: Uuid
    request_id: Annotated[Uuid, Field(description="The turn, which the question and its answer share.")]
    role: Literal["user", "assistant", "system"]
    content: str
    attachments: tuple[AttachmentOfMessage, ...]
    my_reaction: Literal["like", "dislike"] | None
    model: Annotated[Omittable[str], Field(description="The model that answered; only of the assistant.")] = None
    input_tokens: Omittable[int] = None
    output_tokens: Omittable[int] = None
    created_at: Timestamp

    @classmethod
    def of(cls, message: Message, *, attachments: Sequence[Attachment], reaction: str | None) -> Self:
        is_answer = message.role == "assistant"
        return cls.model_validate(
            {
                "id": message.id,
                "request_id": message.request_id,
                "role": message.role,
                "content": message.content,
                "attachments": tuple(AttachmentOfMessage.of(attachment) for attachment in attachments),
                "my_reaction": reaction,
                "model": message.model if is_answer else None,
                "input_tokens": (message.input_tokens or None) if is_answer else None,
                "output_tokens": (message.output_tokens or None) if is_answer else None,
                "created_at": message.created_at,
            }
        )


class MessageList(ListAnswer[MessageDetail]):
    """Messages in the order asked for; with `$select`, each has just the members selected."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from api.schemas import ListAnswer, Omittable, Timestamp, Uuid
from shared.attachments.tables import Attachment
from shared.messages.tables import Message

ShownStatus = Literal["pending", "ready", "failed"]

_SHOWN_STATUS: dict[str, ShownStatus] = {
    "pending": "pending",
    "uploaded": "pending",  # the provider has it, the index does not: still not usable
    "ready": "ready",
    "failed": "failed",
}


class Thumbnail(BaseModel):
    content_type: Literal["image/webp"] = "image/webp"
    width: int
    height: int
    data_base64: str

    @classmethod
    def of(cls, attachment: Attachment) -> Self | None:
        """The thumbnail of an image that is ready, if one could be made."""
        size = (attachment.img_thumbnail_width, attachment.img_thumbnail_height)
        if attachment.status != "ready" or attachment.img_thumbnail is None or size[0] is None or size[1] is None:
            return None
        return cls(width=size[0], height=size[1], data_base64=b64encode(attachment.img_thumbnail).decode())


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
                "status": _SHOWN_STATUS[attachment.status],
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

from __future__ import annotations

from base64 import b64encode
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from api.schemas import Omittable, Timestamp, Uuid
from shared.attachments.tables import Attachment

ShownStatus = Literal["pending", "ready", "failed"]

SHOWN_STATUS: Final[dict[str, ShownStatus]] = {
    "pending": "pending",
    "uploaded": "pending",  # the provider has it, the index does not: still not usable
    "ready": "ready",
    "failed": "failed",
}

UPLOAD_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {
                            "type": "string",
                            "format": "binary",
                            "description": (
                                "The file. Its part needs a Content-Type; with application/octet-stream the ending "
                                "of its name tells the type. Other parts are skipped."
                            ),
                        }
                    },
                },
                "encoding": {"file": {"contentType": "application/octet-stream"}},
            }
        },
    }
}
"""What OpenAPI says of the body, which no model describes: it is read as it arrives."""


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


class AttachmentDetail(BaseModel):
    model_config = ConfigDict(frozen=True)

    id: Uuid
    filename: str
    content_type: Annotated[str, Field(description="The type that the file was taken for.")]
    size_bytes: Annotated[int, Field(description="Of the file itself.")]
    status: ShownStatus
    kind: Literal["document", "image"]
    error_code: Annotated[Omittable[str], Field(description="Why it failed; only if it has.")] = None
    doc_summary: Annotated[Omittable[str], Field(description="Of a document, where summaries are switched on.")] = None
    img_thumbnail: Annotated[Omittable[Thumbnail], Field(description="Of an image that is ready.")] = None
    summary_updated_at: Omittable[Timestamp] = None
    created_at: Timestamp

    @classmethod
    def of(cls, attachment: Attachment) -> Self:
        has_summary = attachment.attachment_kind == "document" and attachment.for_file_search
        return cls.model_validate(
            {
                "id": attachment.id,
                "filename": attachment.filename,
                "content_type": attachment.content_type,
                "size_bytes": attachment.size_bytes,
                "status": SHOWN_STATUS[attachment.status],
                "kind": attachment.attachment_kind,
                "error_code": attachment.error_code if attachment.status == "failed" else None,
                "doc_summary": attachment.doc_summary if has_summary else None,
                "img_thumbnail": Thumbnail.of(attachment),
                "summary_updated_at": attachment.summary_updated_at if has_summary else None,
                "created_at": attachment.created_at,
            }
        )

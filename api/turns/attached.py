"""The attachments that a message is to be sent with: all of them ready, and the caller's own."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import ARRAY, Select, Uuid, any_, bindparam, select
from sqlalchemy.ext.asyncio import AsyncSession

from api.auth import Principal
from shared.attachments.tables import Attachment
from shared.settings import RagSettings
from shared.turns.errors import ImageBytesExceededError, InvalidAttachmentError, TooManyImagesError


@dataclass(frozen=True, slots=True)
class Images:
    """Those among a message's attachments."""

    count: int = 0
    size_bytes: int = 0


async def check_attachments(
    session: AsyncSession, ids: Collection[UUID], *, chat_id: UUID, principal: Principal, lock: bool = False
) -> Images:
    """The images among the attachments, all of which are there; locked against deletion if asked.

    Raises:
        InvalidAttachmentError: one is missing, deleted, not ready, of another chat or of another user.
    """
    if not ids:
        return Images()
    values = {"ids": list(ids), "tenant": principal.tenant_id, "user": principal.user_id, "chat": chat_id}
    rows = (await session.execute(_LOCK if lock else _READ, values)).all()
    if len(rows) != len(ids):
        raise InvalidAttachmentError
    sizes = [row.size_bytes for row in rows if row.attachment_kind == "image"]
    return Images(len(sizes), sum(sizes))


def check_images(images: Images, settings: RagSettings) -> None:
    """
    Raises:
        TooManyImagesError, ImageBytesExceededError: more than one message may have.
    """
    if images.count > settings.max_images_per_message:
        raise TooManyImagesError
    if 0 < settings.max_total_image_bytes_per_turn < images.size_bytes:
        raise ImageBytesExceededError


def _read() -> Select[UUID, str, int]:
    return select(Attachment.id, Attachment.attachment_kind, Attachment.size_bytes).where(
        Attachment.id == any_(bindparam("ids", type_=ARRAY(Uuid))),
        Attachment.tenant_id == bindparam("tenant", type_=Uuid),
        Attachment.chat_id == bindparam("chat", type_=Uuid),
        Attachment.uploaded_by_user_id == bindparam("user", type_=Uuid),
        Attachment.deleted_at.is_(None),
        Attachment.status == "ready",
    )


_READ = _read()
_LOCK = _read().order_by(Attachment.id).with_for_update(read=True)

"""What messages that ask for a cleanup say, as `shared.outbox.messages` writes them.

Only who it is about is taken from them: all else is read from the rows, which are newer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from shared.ids import ChatId, TenantId
from worker.outbox.handlers import RejectedMessageError


@dataclass(frozen=True, slots=True)
class ChatCleanupRequest:
    tenant_id: TenantId
    chat_id: ChatId

    @classmethod
    def parse(cls, payload: Mapping[str, Any]) -> ChatCleanupRequest:
        """
        Raises:
            RejectedMessageError: a member is missing or makes no sense.
        """
        return cls(TenantId(_id(payload, "tenant_id")), ChatId(_id(payload, "chat_id")))


@dataclass(frozen=True, slots=True)
class AttachmentCleanupRequest:
    tenant_id: TenantId
    chat_id: ChatId
    attachment_id: UUID
    vector_store_id: str | None
    """The chat's, when the attachment was deleted."""

    @classmethod
    def parse(cls, payload: Mapping[str, Any]) -> AttachmentCleanupRequest:
        """
        Raises:
            RejectedMessageError: a member is missing or makes no sense.
        """
        store_id = payload.get("vector_store_id")
        if store_id is not None and not isinstance(store_id, str):
            raise RejectedMessageError("vector_store_id: not a string")
        return cls(
            tenant_id=TenantId(_id(payload, "tenant_id")),
            chat_id=ChatId(_id(payload, "chat_id")),
            attachment_id=_id(payload, "attachment_id"),
            vector_store_id=store_id,
        )


def _id(payload: Mapping[str, Any], name: str) -> UUID:
    try:
        return UUID(payload[name])
    except (KeyError, ValueError, TypeError, AttributeError):
        raise RejectedMessageError(f"{name}: not an id") from None

"""What a message that asks for a summary says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from shared.ids import ChatId, TenantId
from shared.summaries.trigger import Frontier
from worker.outbox.handlers import RejectedMessageError


@dataclass(frozen=True, slots=True)
class SummaryRequest:
    """The range after `base`, or after nothing, up to and including `target`."""

    tenant_id: TenantId
    chat_id: ChatId
    system_request_id: UUID
    base: Frontier | None
    target: Frontier

    @classmethod
    def parse(cls, payload: Mapping[str, Any]) -> SummaryRequest:
        """Read a payload, as `shared.outbox.messages.thread_summary` writes it.

        Raises:
            RejectedMessageError: a member is missing or makes no sense, or one half of the base is missing.
        """
        base = (payload.get("base_frontier_created_at"), payload.get("base_frontier_message_id"))
        if (base[0] is None) != (base[1] is None):
            raise RejectedMessageError("one half of the base is missing")
        try:
            return cls(
                tenant_id=TenantId(UUID(payload["tenant_id"])),
                chat_id=ChatId(UUID(payload["chat_id"])),
                system_request_id=UUID(payload["system_request_id"]),
                base=None if base[0] is None else _frontier(*base),
                target=_frontier(payload["frozen_target_created_at"], payload["frozen_target_message_id"]),
            )
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise RejectedMessageError(f"not a summary request: {error!r}") from None


def _frontier(created_at: Any, message_id: Any) -> Frontier:
    moment = datetime.fromisoformat(created_at)
    if moment.tzinfo is None:
        raise ValueError("a time without its zone")
    return Frontier(moment, UUID(message_id))

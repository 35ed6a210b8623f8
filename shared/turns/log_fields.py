"""What a line of the log says about a turn, so that one query finds it in the logs of all processes."""

from __future__ import annotations

from shared.turns.tables import Turn


def fields_of(turn: Turn) -> dict[str, str]:
    fields = {
        "turn_id": str(turn.id),
        "chat_id": str(turn.chat_id),
        "request_id": str(turn.request_id),
        "tenant_id": str(turn.tenant_id),
        "requester_type": turn.requester_type,
    }
    return fields if turn.requester_user_id is None else {**fields, "user_id": str(turn.requester_user_id)}

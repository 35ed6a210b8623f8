"""Writes a new turn with its message and the links to its attachments: one statement, one round trip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, DateTime, Insert, Interval, Uuid, bindparam, column, func, insert, literal_column, select
from sqlalchemy.ext.asyncio import AsyncSession

from shared.db.base import table_of
from shared.ids import new_uuid4
from shared.messages.tables import Message, MessageAttachment
from shared.turns.lifecycle import TurnState
from shared.turns.tables import Turn

_MICROSECOND = literal_column("interval '1 microsecond'", Interval)

_COLUMNS = (
    "id",
    "tenant_id",
    "chat_id",
    "request_id",
    "requester_type",
    "requester_user_id",
    "state",
    "provider_name",
    "planned_message_id",
    "reserve_tokens",
    "max_output_tokens_applied",
    "reserved_credits_micro",
    "policy_version_applied",
    "effective_model",
    "minimal_generation_floor_applied",
    "daily_period_start",
    "monthly_period_start",
    "quota_decision",
    "downgrade_from",
    "downgrade_reason",
    "web_search_enabled",
    "file_search_included",
    "code_interpreter_included",
    "image_inputs",
    "summary_token_estimate",
    "on_disconnect",
    "on_worker_loss",
    "attempt",
    "lost_attempts",
    "started_at",
    "last_progress_at",
    "updated_at",
)


async def insert_running_turn(
    session: AsyncSession, decided: Mapping[str, Any], *, content: str, attachment_ids: Sequence[UUID], now: datetime
) -> Turn:
    """A running turn that nobody has claimed, as it is stored now.

    Args:
        decided: the columns of the turn that the request and its admission say.

    Raises:
        IntegrityError: the request id is taken, or another turn runs in the chat.
    """
    values = dict(decided) | {
        "id": new_uuid4(),
        "requester_type": "user",
        "state": TurnState.RUNNING.value,
        "planned_message_id": new_uuid4(),
        "attempt": 0,
        "lost_attempts": 0,
        "started_at": now,
        "last_progress_at": now,
        "updated_at": now,
    }
    of_message = {"message": new_uuid4(), "content": content, "attachments": list(attachment_ids)}
    await session.execute(_INSERT, {f"turn_{name}": values[name] for name in _COLUMNS} | of_message)
    return Turn(**values)


def _insert() -> Insert:
    turn = insert(table_of(Turn)).values(
        {name: bindparam(f"turn_{name}", type_=table_of(Turn).c[name].type) for name in _COLUMNS}
    )
    message = insert(table_of(Message)).values(
        id=bindparam("message"),
        tenant_id=bindparam("turn_tenant_id"),
        chat_id=bindparam("turn_chat_id"),
        request_id=bindparam("turn_request_id"),
        role="user",
        content=bindparam("content"),
        request_kind="chat",
        created_at=bindparam("turn_started_at"),
    )
    given = (
        func.unnest(bindparam("attachments", type_=ARRAY(Uuid)))
        .table_valued(column("attachment_id", Uuid), with_ordinality="place", name="given")
        .render_derived()
    )
    links = insert(table_of(MessageAttachment)).from_select(
        ["tenant_id", "chat_id", "message_id", "attachment_id", "created_at"],
        select(
            bindparam("turn_tenant_id", type_=Uuid),
            bindparam("turn_chat_id", type_=Uuid),
            bindparam("message", type_=Uuid),
            given.c.attachment_id,
            # They are read in the order of time, which is that of the request.
            bindparam("turn_started_at", type_=DateTime(timezone=True)) + given.c.place * _MICROSECOND,
        ),
    )
    # Foreign keys are looked at when the whole statement is done.
    return links.add_cte(turn.cte("turn"), message.cte("message"))


_INSERT = _insert()

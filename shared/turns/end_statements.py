"""The statements of a turn's end, built once: one that ends it, one that writes all that its end leaves behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import (
    ARRAY,
    Boolean,
    ColumnElement,
    DateTime,
    Insert,
    String,
    Update,
    bindparam,
    case,
    func,
    insert,
    literal_column,
    null,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm.attributes import set_committed_value

from shared.attachments.tables import Attachment
from shared.chats.tables import Chat
from shared.db.base import table_of
from shared.messages.tables import Message, MessageAttachment
from shared.outbox.tables import OutboxMessage
from shared.turns.lifecycle import Ending, TokenUsage
from shared.turns.tables import Turn

MAX_RESPONSE_ID = 128
"""Provider ids have no promised length; the columns have."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The row as it is now, and what the events about it need of other rows."""

    turn: Turn
    selected_model: str
    attachments: Sequence[Mapping[str, Any]]
    prompt: str | None


async def end_turn(
    session: AsyncSession,
    turn: Turn,
    ending: Ending,
    *,
    attempt: int,
    only_if: ColumnElement[bool] | None,
    with_prompt: bool,
) -> Ended | None:
    """Compare-and-set: the one transition out of `running`; None if somebody else has made it.

    The chat's row is touched, and so locked, first.
    """
    values = {
        "chat": turn.chat_id,
        "turn": turn.id,
        "held_attempt": attempt,
        "end_state": ending.state.value,
        "end_error_code": ending.error_code,
        "end_error_detail": ending.error_detail,
        "end_trigger": ending.trigger,
        "end_signal": None if ending.completion_signal is None else dict(ending.completion_signal),
        "end_response_id": _short(ending.response_id),
        "with_prompt": with_prompt,
    }
    statement = _END if only_if is None else _END.where(only_if)
    row = (await session.execute(statement, values)).one_or_none()
    return None if row is None else Ended(row[0], row.selected_model, row.attachments, row.prompt)


async def record_end(session: AsyncSession, turn: Turn, ending: Ending, messages: Sequence[OutboxMessage]) -> None:
    """Write the outbox messages, and the answer if there is one."""
    values: dict[str, Any] = {
        "queues": [message.queue for message in messages],
        "partition_keys": [message.partition_key for message in messages],
        "payload_types": [message.payload_type for message in messages],
        "payloads": [message.payload for message in messages],
        "dedupe_keys": [message.dedupe_key for message in messages],
        "at": turn.completed_at,
    }
    if not ending.has_answer:
        await session.execute(_RECORD, values)
        return
    usage = ending.usage or TokenUsage()
    values |= {
        "turn": turn.id,
        "message": turn.planned_message_id,
        "tenant": turn.tenant_id,
        "chat": turn.chat_id,
        "request": turn.request_id,
        "text": ending.text,
        "answer_response_id": _short(ending.response_id),
        "answer_input_tokens": usage.input_tokens,
        "answer_output_tokens": usage.output_tokens,
        "answer_cache_read": usage.cache_read_input_tokens,
        "answer_cache_write": usage.cache_write_input_tokens,
        "answer_reasoning": usage.reasoning_tokens,
        "answer_model": turn.effective_model,
        "answer_citations": list(ending.citations) or None,
        # History is ordered by time: the answer must come after its question whatever the clock does.
        "not_before": turn.started_at + timedelta(microseconds=1),
    }
    await session.execute(_RECORD_WITH_ANSWER, values)
    set_committed_value(turn, "assistant_message_id", turn.planned_message_id)


def _short(response_id: str | None) -> str | None:
    return None if response_id is None else response_id[:MAX_RESPONSE_ID]


def _end() -> Update:
    touched = (
        update(Chat)
        .where(Chat.id == bindparam("chat"))
        .values(updated_at=func.clock_timestamp())
        .returning(Chat.id, Chat.model)
        .cte("touched")
    )
    columns = table_of(Turn).c
    question = (
        Message.chat_id == Turn.chat_id,
        Message.request_id == Turn.request_id,
        Message.role == "user",
        Message.deleted_at.is_(None),
    )
    described = func.jsonb_build_object(
        *("attachment_id", Attachment.id),
        *("kind", Attachment.attachment_kind),
        *("content_type", Attachment.content_type),
        *("size_bytes", Attachment.size_bytes),
    )
    attachments = (
        select(func.coalesce(func.jsonb_agg(described, type_=JSONB), literal_column("'[]'::jsonb", JSONB)))
        .select_from(Message)
        .join(MessageAttachment, MessageAttachment.message_id == Message.id)
        .join(Attachment, Attachment.id == MessageAttachment.attachment_id)
        .where(*question)
        .correlate(Turn)
        .scalar_subquery()
    )
    prompt = case(
        (
            bindparam("with_prompt", type_=Boolean),
            select(Message.content).where(*question).correlate(Turn).scalar_subquery(),
        ),
        else_=null(),
    )
    return (
        update(Turn)
        .where(
            # The join makes the order of the locks: a turn is reached through its chat's row only.
            Turn.chat_id == touched.c.id,
            Turn.id == bindparam("turn"),
            Turn.state == "running",
            Turn.attempt == bindparam("held_attempt"),
        )
        .values(
            state=bindparam("end_state", type_=columns.state.type),
            completed_at=func.clock_timestamp(),
            updated_at=func.clock_timestamp(),
            lease_owner=None,
            lease_expires_at=None,
            error_code=bindparam("end_error_code", type_=columns.error_code.type),
            error_detail=bindparam("end_error_detail", type_=columns.error_detail.type),
            cancel_trigger=func.coalesce(Turn.cancel_trigger, bindparam("end_trigger", type_=String)),
            completion_signal=bindparam("end_signal", type_=columns.completion_signal.type),
            provider_response_id=bindparam("end_response_id", type_=columns.provider_response_id.type),
        )
        .returning(
            Turn,
            touched.c.model.label("selected_model"),
            attachments.label("attachments"),
            prompt.label("prompt"),
        )
        .execution_options(synchronize_session=False)
    )


def _record() -> Insert:
    given = (
        func.unnest(
            bindparam("queues", type_=ARRAY(String)),
            bindparam("partition_keys", type_=ARRAY(String)),
            bindparam("payload_types", type_=ARRAY(String)),
            bindparam("payloads", type_=ARRAY(JSONB)),
            bindparam("dedupe_keys", type_=ARRAY(String)),
        )
        .table_valued("queue", "partition_key", "payload_type", "payload", "dedupe_key", name="given")
        .render_derived()
    )
    at = bindparam("at", type_=DateTime(timezone=True))
    names = ["queue", "partition_key", "payload_type", "payload", "dedupe_key", "available_at", "created_at"]
    return insert(table_of(OutboxMessage)).from_select(names, select(*given.c, at, at), include_defaults=False)


def _record_with_answer() -> Update:
    columns = table_of(Message).c
    answer = insert(table_of(Message)).values(
        id=bindparam("message"),
        tenant_id=bindparam("tenant"),
        chat_id=bindparam("chat"),
        request_id=bindparam("request"),
        role="assistant",
        content=bindparam("text"),
        request_kind="chat",
        provider_response_id=bindparam("answer_response_id"),
        input_tokens=bindparam("answer_input_tokens"),
        output_tokens=bindparam("answer_output_tokens"),
        cache_read_input_tokens=bindparam("answer_cache_read"),
        cache_write_input_tokens=bindparam("answer_cache_write"),
        reasoning_tokens=bindparam("answer_reasoning"),
        model=bindparam("answer_model"),
        citations=bindparam("answer_citations", type_=columns.citations.type),
        created_at=func.greatest(func.clock_timestamp(), bindparam("not_before", type_=DateTime(timezone=True))),
    )
    # The foreign key to the answer is looked at when the whole statement is done.
    return (
        update(table_of(Turn))
        .where(Turn.id == bindparam("turn"))
        .values(assistant_message_id=bindparam("message"))
        .add_cte(answer.cte("answer"), _record().cte("events"))
    )


_END = _end()
_RECORD = _record()
_RECORD_WITH_ANSWER = _record_with_answer()

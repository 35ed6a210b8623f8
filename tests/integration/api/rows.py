"""Rows that other parts of the system will have written, put there directly."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from shared.attachments.tables import Attachment
from shared.clock import SystemClock
from shared.db.engine import Sessions
from shared.ids import new_uuid4, new_uuid7
from shared.messages.tables import Message, MessageAttachment
from shared.reactions.tables import MessageReaction
from shared.turns.tables import Turn
from tests.support.tokens import Caller


@dataclass(frozen=True)
class StoredTurn:
    request_id: UUID
    question: Message
    answer: Message


async def store_turn(
    sessions: Sessions, chat_id: str, owner: Caller, *, at: datetime | None = None, text: str = "hello"
) -> StoredTurn:
    """A finished turn: the question, and an answer a second later."""
    asked_at = at or SystemClock().now()
    request_id = new_uuid4()
    common: dict[str, Any] = {"tenant_id": owner.tenant_id, "chat_id": UUID(chat_id), "request_id": request_id}
    question = Message(id=new_uuid4(), role="user", content=text, created_at=asked_at, **common)
    answer = Message(
        id=new_uuid4(),
        role="assistant",
        content=f"You said: {text}",
        model="gpt-5.2",
        input_tokens=12,
        output_tokens=34,
        created_at=asked_at + timedelta(seconds=1),
        **common,
    )
    async with sessions.begin() as session:
        session.add_all([question, answer])
    return StoredTurn(request_id, question, answer)


async def store_running_turn(sessions: Sessions, chat_id: str, owner: Caller) -> UUID:
    now = SystemClock().now()
    turn = Turn(
        id=new_uuid4(),
        tenant_id=owner.tenant_id,
        chat_id=UUID(chat_id),
        request_id=new_uuid4(),
        requester_type="user",
        requester_user_id=owner.user_id,
        state="running",
        planned_message_id=new_uuid4(),
        started_at=now,
        last_progress_at=now,
        updated_at=now,
    )
    async with sessions.begin() as session:
        session.add(turn)
    return turn.request_id


async def store_attachment(sessions: Sessions, chat_id: str, owner: Caller, **changes: Any) -> Attachment:
    now = SystemClock().now()
    values: dict[str, Any] = {
        "filename": "notes.txt",
        "content_type": "text/plain",
        "size_bytes": 5,
        "storage_backend": "openai",
        "status": "ready",
        "attachment_kind": "document",
        "for_file_search": True,
        "created_at": now,
    }
    attachment = Attachment(
        id=new_uuid7(),
        tenant_id=owner.tenant_id,
        chat_id=UUID(chat_id),
        uploaded_by_user_id=owner.user_id,
        **values | changes,
    )
    async with sessions.begin() as session:
        session.add(attachment)
    return attachment


async def attach(sessions: Sessions, message: Message, attachment: Attachment, *, at: datetime) -> None:
    link = MessageAttachment(
        tenant_id=message.tenant_id,
        chat_id=message.chat_id,
        message_id=message.id,
        attachment_id=attachment.id,
        created_at=at,
    )
    async with sessions.begin() as session:
        session.add(link)


async def react(sessions: Sessions, message: Message, by: Caller, reaction: str) -> None:
    row = MessageReaction(
        id=new_uuid7(),
        tenant_id=message.tenant_id,
        chat_id=message.chat_id,
        message_id=message.id,
        user_id=by.user_id,
        reaction=reaction,
        created_at=SystemClock().now(),
    )
    async with sessions.begin() as session:
        session.add(row)

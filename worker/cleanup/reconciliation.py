"""Resumes cleanups of chats that no message speaks of any more.

A deleted chat with a file still `pending`, or with a vector store, but without an open message gets a new one. No crash
brings that about, as a chat is deleted and its message written in one transaction; but an operator can who puts a dead
letter aside, or sets a failed file to `pending` again, and so can a vector store that was made while its chat was
cleaned up. A chat whose cleanup is an unresolved dead letter is left to the operator.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Text, cast, or_, select

from shared.attachments.tables import Attachment, ChatVectorStore
from shared.chats.tables import Chat
from shared.db.alone import alone
from shared.db.engine import Sessions
from shared.ids import ChatId, TenantId
from shared.metrics import Metrics
from shared.outbox.enqueue import enqueue
from shared.outbox.messages import CHAT_CLEANUP, chat_cleanup
from shared.outbox.tables import OutboxDeadLetter, OutboxMessage

logger = logging.getLogger(__name__)

# Any number will do, if it is ours.
RECONCILIATION_LOCK: Final = 7_243_909

_UNFINISHED: Final = (
    select(Chat.id, Chat.tenant_id, Chat.deleted_at)
    .where(
        Chat.deleted_at.is_not(None),
        or_(
            select(Attachment.id).where(Attachment.chat_id == Chat.id, Attachment.cleanup_status == "pending").exists(),
            select(ChatVectorStore.id).where(ChatVectorStore.chat_id == Chat.id).exists(),
        ),
        ~select(OutboxMessage.id)
        .where(
            OutboxMessage.queue == CHAT_CLEANUP,
            OutboxMessage.delivered_at.is_(None),
            OutboxMessage.partition_key == cast(Chat.id, Text),
        )
        .exists(),
        ~select(OutboxDeadLetter.id)
        .where(
            OutboxDeadLetter.queue == CHAT_CLEANUP,
            OutboxDeadLetter.resolved_at.is_(None),
            OutboxDeadLetter.partition_key == cast(Chat.id, Text),
        )
        .exists(),
    )
    .order_by(Chat.deleted_at)
)


@dataclass(frozen=True)
class Reconciliation:
    sessions: Sessions
    metrics: Metrics
    batch: int
    """Chats in one pass."""
    wake_outbox: Callable[[], None]

    async def run(self) -> None:
        """One pass, unless another process is at it. Raises what the database raises."""
        async with alone(self.sessions, RECONCILIATION_LOCK) as session:
            if session is None:
                return
            messages = [
                chat_cleanup(ChatId(chat_id), tenant_id=TenantId(tenant_id), deleted_at=deleted_at)
                for chat_id, tenant_id, deleted_at in await session.execute(_UNFINISHED.limit(self.batch))
                if deleted_at is not None
            ]
            await enqueue(session, messages, metrics=self.metrics, wake=self.wake_outbox)
        if messages:
            logger.warning("unfinished cleanups are resumed", extra={"chats": len(messages)})

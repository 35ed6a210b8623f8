"""What is deleted when its time is over: delivered messages, and chats that their owners have deleted.

One process of the fleet at a time, by an advisory lock for each transaction; small transactions, so that nobody waits
for them. A deleted chat goes `retention.chat_grace_days` later with all that belongs to it, and stays while it is
needed to clean up: while a file at the provider is not removed (a `failed` removal included, an operator must see it),
a vector store is left, its cleanup is not delivered, an upload has come to no end (what it has left is found by its row
alone), or a turn has yet to be settled.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import Text, cast, delete, func, or_, select
from sqlalchemy.sql.dml import ReturningDelete

from shared.attachments.tables import Attachment, ChatVectorStore
from shared.chats.tables import Chat
from shared.db.alone import alone
from shared.db.engine import Sessions
from shared.outbox.messages import CHAT_CLEANUP
from shared.outbox.tables import OutboxMessage
from shared.settings import Settings
from shared.turns.tables import Turn

logger = logging.getLogger(__name__)

PURGE_INTERVAL: Final = timedelta(hours=1)
MESSAGE_BATCH: Final = 5_000
CHAT_BATCH: Final = 100
"""With a chat go its messages and turns."""
# Any number will do, if it is ours.
PURGE_LOCK: Final = 7_243_908


@dataclass
class Purge:
    settings: Settings
    sessions: Sessions

    async def run(self) -> None:
        """One pass, as far as no other process is at it. Raises what the database raises."""
        messages = await self._delete_all(self._delivered_messages, batch=MESSAGE_BATCH)
        chats = await self._delete_all(self._deleted_chats, batch=CHAT_BATCH)
        if messages or chats:
            logger.info("purged", extra={"outbox_messages": messages, "chats": chats})

    async def _delete_all(self, statement: Callable[[int], ReturningDelete[Any]], *, batch: int) -> int:
        deleted = 0
        while True:
            async with alone(self.sessions, PURGE_LOCK) as session:
                if session is None:
                    return deleted
                gone = len((await session.scalars(statement(batch))).all())
            deleted += gone
            if gone < batch:
                return deleted

    def _delivered_messages(self, batch: int) -> ReturningDelete[Any]:
        limit = func.now() - timedelta(hours=self.settings.outbox.retention_hours)
        over = select(OutboxMessage.id).where(OutboxMessage.delivered_at < limit).limit(batch)
        return delete(OutboxMessage).where(OutboxMessage.id.in_(over)).returning(OutboxMessage.id)

    def _deleted_chats(self, batch: int) -> ReturningDelete[Any]:
        limit = func.now() - timedelta(days=self.settings.retention.chat_grace_days)
        over = (
            select(Chat.id)
            .where(
                Chat.deleted_at <= limit,
                # A null status is nobody's work.
                ~select(Attachment.id)
                .where(
                    Attachment.chat_id == Chat.id,
                    or_(Attachment.cleanup_status != "done", Attachment.status == "pending"),
                )
                .exists(),
                ~select(ChatVectorStore.id).where(ChatVectorStore.chat_id == Chat.id).exists(),
                ~select(Turn.id).where(Turn.chat_id == Chat.id, Turn.state == "running").exists(),
                ~select(OutboxMessage.id)
                .where(
                    OutboxMessage.queue == CHAT_CLEANUP,
                    OutboxMessage.delivered_at.is_(None),
                    OutboxMessage.partition_key == cast(Chat.id, Text),
                )
                .exists(),
            )
            .limit(batch)
            .with_for_update(skip_locked=True)
        )
        return delete(Chat).where(Chat.id.in_(over)).returning(Chat.id)

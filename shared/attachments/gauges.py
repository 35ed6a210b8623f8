"""How many attachments are under way, have failed, or wait for their removal.

Those that users see: neither they nor their chats are deleted. A failed one counts for as long as it is there, whatever
has become of its file.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import exists, func, select

from shared.attachments.tables import Attachment
from shared.chats.tables import Chat
from shared.db.engine import Sessions
from shared.metrics import Metrics

_IS_OF_DELETED_CHAT: Final = exists().where(Chat.id == Attachment.chat_id, Chat.deleted_at.is_not(None))
# All in the words of the partial indexes that answer them: chats that are there are far too many to be read.
_NOT_READY: Final = (
    select(Attachment.status, func.count())
    .where(Attachment.status != "ready", Attachment.deleted_at.is_(None), ~_IS_OF_DELETED_CHAT)
    .group_by(Attachment.status)
)
_NOT_REMOVED: Final = (
    select(Attachment.cleanup_status, func.count())
    .where(Attachment.cleanup_status.in_(("pending", "failed")))
    .group_by(Attachment.cleanup_status)
)


async def measure_attachments(sessions: Sessions, metrics: Metrics) -> None:
    """Set `attachments_pending`, `attachments_failed` and `cleanup_backlog`. Raises what the database raises."""
    async with sessions() as session:
        not_ready = dict((await session.execute(_NOT_READY)).all())
        not_removed = dict((await session.execute(_NOT_REMOVED)).all())
    metrics.attachments_pending.set(not_ready.get("pending", 0) + not_ready.get("uploaded", 0))
    metrics.attachments_failed.set(not_ready.get("failed", 0))
    for state in ("pending", "failed"):
        metrics.cleanup_backlog.labels(state=state, resource_type="file").set(not_removed.get(state, 0))

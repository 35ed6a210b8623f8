"""What operators do with dead letters: list them, have them delivered after all, or put them aside.

A replay inserts the message anew, with its dedupe key and no failed attempts, and resolves the letter in the same
transaction. One without a key gets its old id as its key: a receiver may have taken it at a try that seemed to fail,
and has to know it again. It goes to the end of its key: what came after it has been delivered meanwhile. A cleanup's
files get their tries anew, too, without which it could only fail again. Both are idempotent, as a letter is replayed
or resolved only while nobody has resolved it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from shared.attachments.cleanup import CleanupRepository
from shared.outbox.enqueue import enqueue
from shared.outbox.messages import ATTACHMENT_CLEANUP, CHAT_CLEANUP, USAGE_SNAPSHOT
from shared.outbox.tables import OutboxDeadLetter, OutboxMessage

_IS_OPEN: Final = OutboxDeadLetter.resolved_at.is_(None)
_HAS_OPEN_USAGE: Final = select(
    select(OutboxDeadLetter.id).where(_IS_OPEN, OutboxDeadLetter.queue == USAGE_SNAPSHOT).exists()
)


@dataclass(frozen=True, slots=True)
class Replayed:
    queued: list[int]
    duplicates: list[int]
    """Resolved without a message of their own: the outbox already has one with their dedupe key."""


class DeadLetters:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def list_open(self, *, queue: str | None = None) -> Sequence[OutboxDeadLetter]:
        """The unresolved ones, oldest first."""
        query = select(OutboxDeadLetter).where(_IS_OPEN).order_by(OutboxDeadLetter.failed_at, OutboxDeadLetter.id)
        if queue is not None:
            query = query.where(OutboxDeadLetter.queue == queue)
        return (await self._session.scalars(query)).all()

    async def has_open_usage(self) -> bool:
        return bool(await self._session.scalar(_HAS_OPEN_USAGE))

    async def replay(self, *, ids: Collection[int] = (), queue: str | None = None) -> Replayed:
        """Those of `ids`, or all of `queue`, in the order in which they were written first."""
        query = select(OutboxDeadLetter).where(_IS_OPEN).order_by(OutboxDeadLetter.id).with_for_update()
        chosen = OutboxDeadLetter.id.in_(ids) if queue is None else OutboxDeadLetter.queue == queue
        letters = (await self._session.scalars(query.where(chosen))).all()
        replayed = Replayed([], [])
        for letter in letters:
            message = OutboxMessage(
                queue=letter.queue,
                partition_key=letter.partition_key,
                payload_type=letter.payload_type,
                payload=letter.payload,
                dedupe_key=letter.dedupe_key or str(letter.id),
                created_at=letter.created_at,
            )
            await self._reopen_cleanup(letter)
            is_new = await enqueue(self._session, [message])
            (replayed.queued if is_new else replayed.duplicates).append(letter.id)
        await self.resolve(ids=[letter.id for letter in letters])
        return replayed

    async def _reopen_cleanup(self, letter: OutboxDeadLetter) -> None:
        if letter.queue not in (CHAT_CLEANUP, ATTACHMENT_CLEANUP):
            return
        chat_id, attachment_id = _id_in(letter.payload, "chat_id"), _id_in(letter.payload, "attachment_id")
        if chat_id is not None:
            await CleanupRepository(self._session).reopen(chat_id=chat_id, attachment_id=attachment_id)

    async def resolve(self, *, ids: Collection[int]) -> list[int]:
        """Put them aside; the ids of those that were open."""
        resolved = await self._session.scalars(
            update(OutboxDeadLetter)
            .where(OutboxDeadLetter.id.in_(ids), _IS_OPEN)
            .values(resolved_at=func.now())
            .returning(OutboxDeadLetter.id)
            .execution_options(synchronize_session=False)
        )
        return sorted(resolved)


def _id_in(payload: Mapping[str, Any], name: str) -> UUID | None:
    """None also of a payload that makes no sense, for which it was rejected."""
    try:
        return UUID(payload[name])
    except (KeyError, ValueError, TypeError, AttributeError):
        return None

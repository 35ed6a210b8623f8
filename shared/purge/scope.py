"""Whose data are purged, and the statements that find and remove them. Each works on a bounded batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from sqlalchemy import ColumnElement, Select, Text, and_, cast, delete, exists, func, or_, select, true, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from shared.attachments.tables import Attachment, ChatVectorStore
from shared.chats.tables import NO_GRACE, Chat
from shared.outbox.messages import CHAT_CLEANUP
from shared.outbox.tables import OutboxDeadLetter, OutboxMessage
from shared.quotas.tables import QuotaUsage
from shared.reactions.tables import MessageReaction
from shared.turns.tables import Turn
from shared.valkey.keyspace import TurnKeys

BATCH: Final = 200

_NAMES_A_USER: Final = ("user_id", "actor_user_id")
"""Members of usage and audit events, which outlive the rows of their chats."""


@dataclass(frozen=True, slots=True)
class OwnedChat:
    id: UUID
    user_id: UUID


class PurgeScope:
    """The data of a tenant, or of one user of it."""

    def __init__(self, session: AsyncSession, *, tenant_id: UUID, user_id: UUID | None) -> None:
        self._session = session
        self._tenant_id = tenant_id
        self._user_id = user_id

    async def count(self) -> dict[str, int]:
        """What there is of everything that a purge removes, and of what keeps deleted chats from going."""
        is_live = Chat.deleted_at.is_(None)
        counts = {
            "chats": _count(Chat, self._owns(Chat), is_live),
            "deleted_chats": _count(Chat, self._owns(Chat), ~is_live),
            "running_turns": _count(Turn, self._is_running()),
            "quota_rows": _count(QuotaUsage, self._owns(QuotaUsage)),
            "reactions": _count(MessageReaction, self._owns(MessageReaction)),
            "provider_files": _count(
                Attachment, self._is_of_chats(Attachment.chat_id), Attachment.cleanup_status == "pending"
            ),
            "failed_provider_files": _count(
                Attachment, self._is_of_chats(Attachment.chat_id), Attachment.cleanup_status == "failed"
            ),
            "vector_stores": _count(ChatVectorStore, self._is_of_chats(ChatVectorStore.chat_id)),
            "dead_cleanups": _count(
                OutboxDeadLetter,
                OutboxDeadLetter.resolved_at.is_(None),
                OutboxDeadLetter.queue == CHAT_CLEANUP,
                exists().where(self._owns(Chat), cast(Chat.id, Text) == OutboxDeadLetter.partition_key),
            ),
            "undelivered_messages": _count(
                OutboxMessage, OutboxMessage.delivered_at.is_(None), self._is_named_in(OutboxMessage.payload)
            ),
        }
        return {name: int(await self._session.scalar(query) or 0) for name, query in counts.items()}

    async def list_live_chats(self) -> list[OwnedChat]:
        """Some of the chats that nobody has deleted yet."""
        query = select(Chat.id, Chat.user_id).where(self._owns(Chat), Chat.deleted_at.is_(None)).limit(BATCH)
        return [OwnedChat(*row) for row in await self._session.execute(query)]

    async def end_grace(self) -> int:
        """Have some of the deleted chats go as soon as nothing of them is left at the provider; how many."""
        waiting = (
            select(Chat.id)
            .where(self._owns(Chat), Chat.deleted_at > NO_GRACE)
            .limit(BATCH)
            .with_for_update(key_share=True)
        )
        ended = update(Chat).where(Chat.id.in_(waiting)).values(deleted_at=NO_GRACE).returning(Chat.id)
        return len((await self._session.scalars(ended)).all())

    async def is_any_running(self) -> bool:
        return bool(await self._session.scalar(select(exists().where(self._is_running()))))

    async def delete_quotas(self) -> int:
        """Delete some of the quota rows of users of whom no turn runs: its end would write them anew; how many."""
        runs = exists().where(
            Turn.tenant_id == QuotaUsage.tenant_id,
            Turn.requester_user_id == QuotaUsage.user_id,
            Turn.state == "running",
        )
        some = select(QuotaUsage.id).where(self._owns(QuotaUsage), ~runs).limit(BATCH)
        gone = await self._session.scalars(delete(QuotaUsage).where(QuotaUsage.id.in_(some)).returning(QuotaUsage.id))
        return len(gone.all())

    async def delete_reactions(self) -> int:
        """Delete some of the reactions; how many."""
        some = select(MessageReaction.id).where(self._owns(MessageReaction)).limit(BATCH)
        gone = await self._session.scalars(
            delete(MessageReaction).where(MessageReaction.id.in_(some)).returning(MessageReaction.id)
        )
        return len(gone.all())

    async def list_ended_turns(self, *, after: UUID | None) -> list[tuple[UUID, TurnKeys]]:
        """The next of the turns that have ended, in the order of their ids, with their keys in Valkey."""
        query = (
            select(Turn.id, Turn.chat_id, Turn.request_id)
            .where(self._is_of_chats(Turn.chat_id), Turn.state != "running")
            .where(true() if after is None else Turn.id > after)
            .order_by(Turn.id)
            .limit(BATCH)
        )
        return [(row.id, TurnKeys(row.chat_id, row.request_id)) for row in await self._session.execute(query)]

    def _owns(self, table: type[Chat] | type[QuotaUsage] | type[MessageReaction]) -> ColumnElement[bool]:
        is_wanted = true() if self._user_id is None else table.user_id == self._user_id
        return and_(table.tenant_id == self._tenant_id, is_wanted)

    def _is_running(self) -> ColumnElement[bool]:
        return and_(self._is_of_chats(Turn.chat_id), Turn.state == "running")

    def _is_of_chats(self, chat_id: InstrumentedAttribute[UUID]) -> ColumnElement[bool]:
        return chat_id.in_(select(Chat.id).where(self._owns(Chat)))

    def _is_named_in(self, payload: InstrumentedAttribute[dict[str, Any]]) -> ColumnElement[bool]:
        """A message of the tenant; of a user those that name them, or a chat of theirs."""
        is_of_tenant: ColumnElement[bool] = payload["tenant_id"].astext == str(self._tenant_id)
        if self._user_id is None:
            return is_of_tenant
        is_of_user = or_(*(payload[name].astext == str(self._user_id) for name in _NAMES_A_USER))
        is_of_chat = exists().where(self._owns(Chat), cast(Chat.id, Text) == payload["chat_id"].astext)
        return and_(is_of_tenant, or_(is_of_user, is_of_chat))


def _count(table: Any, *conditions: ColumnElement[bool]) -> Select[int]:
    return select(func.count()).select_from(table).where(*conditions)

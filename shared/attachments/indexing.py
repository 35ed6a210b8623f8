"""Statements that take an attachment from `uploaded` to its end, and find those that are stuck on the way.

    pending -> uploaded -> ready | failed

Changes are compare-and-set: of several that find an attachment in a state, one moves it on. A live attachment is one
whose user has not deleted it, nor its chat. What is left at the provider of one that failed is not yet removed while
its `cleanup_status` is null. Time is the database's.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final, Literal
from uuid import UUID

from sqlalchemy import ColumnElement, and_, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from shared.attachments.tables import Attachment
from shared.ids import ChatId, TenantId, first_uuid7

TIMEOUT: Final = timedelta(minutes=15)
"""Of an upload, and of what comes after it."""
GRACE: Final = timedelta(minutes=1)
"""How long whoever has a row in hand is left alone with it; two at a time do no harm."""
SUMMARY_GRACE: Final = timedelta(minutes=5)
"""The same of a document's summary, which a model writes."""
_LONGEST_WAY: Final = 4 * TIMEOUT
"""From an attachment's row to where its summary is given up: the upload, the indexing, the summary, some to spare."""

IndexingErrorCode = Literal["vector_store_failed", "indexing_failed"]

_now = func.clock_timestamp
_is_live = and_(Attachment.deleted_at.is_(None), Attachment.cleanup_status.is_(None))
_is_waiting = and_(_is_live, Attachment.status == "uploaded")


class IndexingRepository:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def is_ready(self, attachment: Attachment) -> bool:
        """Whether it is `ready` by now, and live."""
        where = (_is(attachment.id, attachment.chat_id, attachment.tenant_id), Attachment.status == "ready", _is_live)
        return await self._session.scalar(select(Attachment.id).where(*where)) is not None

    async def find_uploaded(self, attachment_id: UUID, *, chat_id: ChatId, tenant_id: TenantId) -> Attachment | None:
        """The live attachment, if it waits for its end."""
        statement = select(Attachment).where(_is(attachment_id, chat_id, tenant_id), _is_waiting)
        found: Attachment | None = await self._session.scalar(statement)
        return found

    async def mark_ready(self, attachment: Attachment) -> bool:
        """`uploaded` to `ready`, if it is live."""
        return await self._move(attachment, _is_live, from_status="uploaded", status="ready")

    async def mark_failed(self, attachment: Attachment, error_code: IndexingErrorCode) -> bool:
        """`uploaded` to `failed`, if it is live; its file is to be removed."""
        return await self._move(attachment, _is_live, from_status="uploaded", status="failed", error_code=error_code)

    async def give_up_upload(self, attachment: Attachment) -> bool:
        """`pending` to `failed`, live or not, once nothing of it is left at the provider."""
        return await self._move(
            attachment,
            from_status="pending",
            status="failed",
            error_code="upload_failed",
            cleanup_status=func.coalesce(Attachment.cleanup_status, "done"),
            cleanup_updated_at=_now(),
        )

    async def note_removed(self, attachment: Attachment) -> None:
        """Nothing of the failed attachment is left at the provider."""
        is_open = Attachment.cleanup_status.is_(None)
        await self._move(attachment, is_open, from_status="failed", cleanup_status="done", cleanup_updated_at=_now())

    async def claim_never_uploaded(self, *, limit: int) -> Sequence[Attachment]:
        """Uploads that do not end, deleted ones included: the provider may have their file without our knowing."""
        return await self._claim(Attachment.status == "pending", Attachment.created_at < _ago(TIMEOUT), limit=limit)

    async def claim_unsearched(self, *, limit: int) -> Sequence[Attachment]:
        """Failed uploads whose file the provider may have although its answer did not come.

        Of those that are deleted, and whose cleanup knew of no file, the recent ones: they are searched for once or
        twice more, as nothing notes that they were.
        """
        return await self._claim(
            or_(_is_live, and_(Attachment.cleanup_status == "done", Attachment.cleanup_updated_at > _ago(TIMEOUT))),
            Attachment.status == "failed",
            Attachment.error_code == "upload_failed",
            Attachment.provider_file_id.is_(None),
            limit=limit,
        )

    async def claim_unremoved(self, *, limit: int) -> Sequence[Attachment]:
        """Failed ones whose file the provider may still have."""
        return await self._claim(
            _is_live, Attachment.status == "failed", Attachment.provider_file_id.is_not(None), limit=limit
        )

    async def list_unindexed(self, *, limit: int) -> Sequence[Attachment]:
        """Uploaded for some time, though not for too long."""
        since = Attachment.updated_at
        return await self._list(_is_waiting, since < _ago(GRACE), since >= _ago(TIMEOUT), limit=limit)

    async def list_overdue(self, *, limit: int) -> Sequence[Attachment]:
        """Uploaded for too long."""
        return await self._list(_is_waiting, Attachment.updated_at < _ago(TIMEOUT), limit=limit)

    async def list_unsummarized(self, *, now: datetime, limit: int) -> Sequence[Attachment]:
        """Documents that have been ready for some time, though not for too long, and whose summary nobody has tried to
        write in vain.

        Args:
            now: roughly. The ids tell when attachments were made, and are the index that keeps this off old ones.
        """
        since = Attachment.updated_at
        return await self._list(
            _is_live,
            Attachment.id >= first_uuid7(now - _LONGEST_WAY),
            Attachment.status == "ready",
            Attachment.for_file_search.is_(True),
            Attachment.doc_summary.is_(None),
            Attachment.summary_model.is_(None),
            since < _ago(SUMMARY_GRACE),
            since >= _ago(TIMEOUT),
            limit=limit,
        )

    async def _move(
        self, attachment: Attachment, *conditions: ColumnElement[bool], from_status: str, **values: object
    ) -> bool:
        statement = update(Attachment).where(
            _is(attachment.id, attachment.chat_id, attachment.tenant_id), Attachment.status == from_status, *conditions
        )
        moved = statement.values(updated_at=_now(), **values).returning(Attachment.id)
        return await self._session.scalar(moved.execution_options(synchronize_session=False)) is not None

    async def _claim(self, *conditions: ColumnElement[bool], limit: int) -> Sequence[Attachment]:
        """Of those that nobody has had in hand of late; whoever asks next is not given them until `GRACE` is over."""
        free = (
            select(Attachment.id)
            .where(*conditions, Attachment.updated_at < _ago(GRACE))
            .order_by(Attachment.updated_at)
            .limit(limit)
            .with_for_update(skip_locked=True)
            .cte()
        )
        claimed = update(Attachment).where(Attachment.id == free.c.id).values(updated_at=_now()).returning(Attachment)
        return (await self._session.scalars(claimed.execution_options(synchronize_session=False))).all()

    async def _list(self, *conditions: ColumnElement[bool], limit: int) -> Sequence[Attachment]:
        statement = select(Attachment).where(*conditions).order_by(Attachment.updated_at).limit(limit)
        return (await self._session.scalars(statement)).all()


def _ago(age: timedelta) -> ColumnElement[datetime]:
    return _now() - age


def _is(attachment_id: UUID, chat_id: UUID, tenant_id: UUID) -> ColumnElement[bool]:
    return and_(Attachment.id == attachment_id, Attachment.chat_id == chat_id, Attachment.tenant_id == tenant_id)

"""Deletes files at providers that no row will ever name.

An upload whose process dies after the provider has taken the file, and before its row says so, leaves such a file. But
the row was there first, and it ends without the id of a file: as `failed`, or deleted, or cleaned up. A row that has
ended never gets one any more. So the files of such rows are looked for, by their names (`{chat}_{attachment}.{ext}`),
in the provider's list of files, and deleted.

Nothing else is touched. What has another name, or the name of a row that is not in this database, belongs to somebody
else who uses the same account, another deployment of this product perhaps; what has the name of a row that has not
ended may still be uploading, however old it is. A provider without such rows is not asked at all.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from dataclasses import dataclass
from datetime import timedelta
from pathlib import PurePosixPath
from typing import Final
from uuid import UUID

from sqlalchemy import and_, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from shared.attachments.tables import Attachment
from shared.db.alone import alone
from shared.db.engine import Sessions
from shared.metrics import Metrics
from shared.providers.storage import ProviderStorage, ProviderStorages, StorageError
from worker.cleanup.removal import Removal

logger = logging.getLogger(__name__)

STRAY_INTERVAL: Final = timedelta(minutes=5)
SEARCH_TIME: Final = timedelta(days=1)
"""How long after its row has ended a file is looked for. The upload may end at the provider some minutes later, and
then the provider, or all workers, may be away for hours. The rows are kept as long."""
# Any number will do, if it is ours.
STRAY_LOCK: Final = 7_243_910

MAY_HAVE_STRAY: Final = and_(
    Attachment.provider_file_id.is_(None),
    Attachment.updated_at > func.now() - SEARCH_TIME,
    or_(Attachment.status == "failed", Attachment.deleted_at.is_not(None), Attachment.cleanup_status == "done"),
)


@dataclass(frozen=True)
class StraySearch:
    sessions: Sessions
    storages: ProviderStorages
    removal: Removal
    metrics: Metrics

    async def run(self) -> None:
        """One search, unless another process is at it. Raises what the database raises.

        The lock's transaction stays open while providers are asked: an idle connection of the whole fleet.
        """
        async with alone(self.sessions, STRAY_LOCK) as session:
            if session is None:
                return
            for storage, stems in (await self._list_stems(session)).items():
                try:
                    await self._remove(storage, stems)
                except StorageError as error:
                    _warn(error, storage.backend)

    async def _list_stems(self, session: AsyncSession) -> dict[ProviderStorage, set[str]]:
        """The names to look for, without their extensions, by where."""
        by_place: defaultdict[tuple[str, UUID], set[str]] = defaultdict(set)
        ended = select(Attachment.storage_backend, Attachment.tenant_id, Attachment.chat_id, Attachment.id)
        for backend, tenant_id, chat_id, attachment_id in await session.execute(ended.where(MAY_HAVE_STRAY)):
            by_place[backend, tenant_id].add(f"{chat_id}_{attachment_id}")
        by_storage: defaultdict[ProviderStorage, set[str]] = defaultdict(set)
        for (backend, tenant_id), stems in by_place.items():
            try:
                # Most tenants share one: it is to be listed once.
                by_storage[self.storages.of_backend(backend, tenant_id)] |= stems
            except StorageError as error:
                _warn(error, backend)
        return by_storage

    async def _remove(self, storage: ProviderStorage, stems: set[str]) -> None:
        for purpose in storage.purposes:
            strays = [
                file.id
                async for file in storage.list_files(purpose=purpose)
                if PurePosixPath(file.filename).stem in stems
            ]
            for file_id in strays:
                await self.removal.delete_file(storage, file_id)
                self.metrics.cleanup_completed.labels(resource_type="file").inc()
                logger.info("a file that no row names was deleted", extra={"storage_backend": storage.backend})


def _warn(error: StorageError, backend: str) -> None:
    logger.warning(
        "files that no row names could not be looked for, will try again: %s", error, extra={"storage_backend": backend}
    )

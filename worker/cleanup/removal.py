"""Removes files and vector stores at a provider; what is not there is removed.

A refusal or a broken connection that a moment may cure is tried again at once, a few times, before it counts as a
failed try of the cleanup: of those there are few, and a provider that fails now and then must not use them up. A call
that ran into its time limit is not: it has waited long enough.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Literal
from uuid import UUID

from shared.attachments.cleanup import FileToRemove
from shared.metrics import Metrics
from shared.providers.storage import ProviderStorage, ProviderStorages, StorageError

QUICK_RETRY_SECS: Final = (0.2, 0.6)
_PASSING_REFUSALS: Final = frozenset({408, 409, 425, 429})

Resource = Literal["file", "vector_store"]
Operation = Literal["vector_store_remove", "file_delete", "vector_store_delete"]


@dataclass(frozen=True)
class Removal:
    """Every method raises StorageError, and is safe to repeat."""

    storages: ProviderStorages
    metrics: Metrics

    async def remove_file(self, file: FileToRemove, *, vector_store_id: str | None = None) -> None:
        """Delete the file, if there is one; out of the vector store before that, so that no search finds it."""
        if (file_id := file.provider_file_id) is None:
            return
        storage = self.storages.of_backend(file.storage_backend, file.tenant_id)
        if vector_store_id is not None:
            store_id = vector_store_id
            await self._insist("vector_store_remove", "file", lambda: storage.remove_file(store_id, file_id))
        await self.delete_file(storage, file_id)

    async def delete_file(self, storage: ProviderStorage, file_id: str) -> None:
        await self._insist("file_delete", "file", lambda: storage.delete_file(file_id))

    async def delete_vector_store(self, vector_store_id: str, *, storage_backend: str, tenant_id: UUID) -> None:
        storage = self.storages.of_backend(storage_backend, tenant_id)
        await self._insist("vector_store_delete", "vector_store", lambda: storage.delete_vector_store(vector_store_id))

    async def _insist(self, op: Operation, resource: Resource, call: Callable[[], Awaitable[None]]) -> None:
        for pause in (*QUICK_RETRY_SECS, None):
            began = time.monotonic()
            try:
                await call()
            except StorageError as error:
                if pause is None or not _may_pass(error):
                    raise
                self.count_retry(resource, error)
                await asyncio.sleep(pause)
            else:
                self.metrics.cleanup_latency_ms.labels(op=op).observe((time.monotonic() - began) * 1000)
                return

    def count_retry(self, resource: Resource, error: StorageError) -> None:
        self.metrics.cleanup_retry.labels(resource_type=resource, reason=error.code).inc()


def _may_pass(error: StorageError) -> bool:
    if error.is_timeout:
        return False
    status = error.http_status
    return status is None or status >= 500 or status in _PASSING_REFUSALS

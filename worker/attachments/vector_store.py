"""Gets or creates the vector store of a chat, of which there is one however many documents come first at a time."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from shared.attachments.vector_stores import VectorStoreRepository
from shared.db.engine import Sessions
from shared.ids import ChatId, TenantId
from shared.providers.storage import ProviderStorage, StorageError

LOSERS_LOOK_AFTER_SECS: Final = (0.1, 0.2, 0.4, 0.8, 1.6)
PAUSES_SECS: Final = (0.2, 0.6)
"""Between tries to delete a store that lost."""


class VectorStoreError(Exception):
    """There is no vector store to be had now."""


class VectorStoreTimeoutError(VectorStoreError):
    """Somebody else is creating it, and does not come to an end."""


class VectorStoreRaceError(VectorStoreError):
    """Somebody else was creating it and gave up, or the chat is deleted."""


class StoreOfAnotherBackendError(VectorStoreError):
    """The chat's store is at another provider than the file. No try will help."""


@dataclass(frozen=True)
class ChatVectorStores:
    sessions: Sessions

    async def ensure(self, chat_id: ChatId, *, tenant_id: TenantId, storage: ProviderStorage) -> str:
        """The provider's id of the chat's store. Whoever claims its creation makes it, all others wait for that.

        Raises:
            VectorStoreError: see its kinds.
            StorageError: the provider did not create it.
        """
        async with self.sessions.begin() as session:
            stores = VectorStoreRepository(session)
            store, claim = await stores.find(chat_id, tenant_id=tenant_id), None
            if store is None or store.vector_store_id is None:
                claim = await stores.claim(chat_id, tenant_id=tenant_id, backend=storage.backend)
                store = store or await stores.find(chat_id, tenant_id=tenant_id)
        if claim is not None:
            return await self._create(claim, storage)
        for pause in (*LOSERS_LOOK_AFTER_SECS, None):
            if store is None:
                raise VectorStoreRaceError("its creation was given up")
            if store.provider != storage.backend:
                raise StoreOfAnotherBackendError(f"the store is one of {store.provider}")
            if store.vector_store_id is not None:
                return store.vector_store_id
            if pause is not None:
                await asyncio.sleep(pause)
                async with self.sessions() as session:
                    store = await VectorStoreRepository(session).find(chat_id, tenant_id=tenant_id)
        raise VectorStoreTimeoutError("its creation takes too long")

    async def _create(self, claim: UUID, storage: ProviderStorage) -> str:
        try:
            vector_store_id = await storage.create_vector_store()
        except StorageError:
            async with self.sessions.begin() as session:
                await VectorStoreRepository(session).release(claim)
            raise
        # If this fails, it may have been committed: the store stays. At worst an empty one is left.
        async with self.sessions.begin() as session:
            is_ours = await VectorStoreRepository(session).complete(claim, vector_store_id)
        if not is_ours:
            await _delete(vector_store_id, storage)
            raise VectorStoreRaceError("somebody else took its creation over, or the chat was deleted")
        return vector_store_id


async def _delete(vector_store_id: str, storage: ProviderStorage) -> None:
    """Delete a store that no row knows of, so that nobody will try again.

    Raises:
        StorageError: it is left.
    """
    for pause in (*PAUSES_SECS, None):
        try:
            await storage.delete_vector_store(vector_store_id)
        except StorageError:
            if pause is None:
                raise
            await asyncio.sleep(pause)
        else:
            return

"""Who creates a chat's vector store, and what becomes of everybody else."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import delete, func, update

from shared.attachments.tables import ChatVectorStore
from shared.attachments.vector_stores import ABANDONED_AFTER, VectorStoreRepository
from shared.ids import ChatId, TenantId
from shared.providers.storage import StorageError
from tests.support.storage_stage import BACKENDS, StorageStage, Style
from tests.support.waiting import wait_until
from worker.attachments import vector_store
from worker.attachments.vector_store import (
    ChatVectorStores,
    StoreOfAnotherBackendError,
    VectorStoreRaceError,
    VectorStoreTimeoutError,
)


async def ensure(stage: StorageStage, chat_id: UUID, *, style: Style = "openai") -> str:
    return await ChatVectorStores(stage.sessions).ensure(
        ChatId(chat_id), tenant_id=TenantId(stage.tenant_id), storage=stage.storage(style)
    )


async def claim(stage: StorageStage, chat_id: UUID) -> UUID | None:
    async with stage.sessions.begin() as session:
        return await VectorStoreRepository(session).claim(
            ChatId(chat_id), tenant_id=TenantId(stage.tenant_id), backend=BACKENDS["openai"]
        )


async def change_store(stage: StorageStage, chat_id: UUID, **columns: Any) -> None:
    async with stage.sessions.begin() as session:
        await session.execute(update(ChatVectorStore).where(ChatVectorStore.chat_id == chat_id).values(**columns))


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector_store, "LOSERS_LOOK_AFTER_SECS", (0.01, 0.02))


def test_losers_look_five_times() -> None:
    assert vector_store.LOSERS_LOOK_AFTER_SECS == (0.1, 0.2, 0.4, 0.8, 1.6)


async def test_a_chat_keeps_its_store(stage: StorageStage) -> None:
    chat_id = await stage.new_chat()
    first = await ensure(stage, chat_id)
    assert await ensure(stage, chat_id) == first
    assert len((await stage.held())[1]) == 1


async def test_a_loser_gets_what_the_winner_makes(stage: StorageStage) -> None:
    chat_id = await stage.new_chat()
    held = await claim(stage, chat_id)
    assert held is not None
    assert await claim(stage, chat_id) is None
    async with asyncio.TaskGroup() as tasks:
        loser = tasks.create_task(ensure(stage, chat_id))
        await asyncio.sleep(0)
        async with stage.sessions.begin() as session:
            assert await VectorStoreRepository(session).complete(held, "vs_of_the_winner1")
    assert loser.result() == "vs_of_the_winner1"
    assert (await stage.held())[1] == []


@pytest.mark.usefixtures("_impatient")
async def test_a_creation_that_does_not_end_is_a_timeout(stage: StorageStage) -> None:
    chat_id = await stage.new_chat()
    await claim(stage, chat_id)
    with pytest.raises(VectorStoreTimeoutError):
        await ensure(stage, chat_id)


async def test_a_creation_that_is_given_up_is_a_race_for_those_who_wait(stage: StorageStage) -> None:
    chat_id = await stage.new_chat()
    await stage.script(storage="vector_store_create", http_status=500, delay_ms=150)
    async with asyncio.TaskGroup() as tasks:
        winner = tasks.create_task(_failure(ensure(stage, chat_id)))
        await wait_until(lambda: stage.store_of(chat_id))
        loser = tasks.create_task(_failure(ensure(stage, chat_id)))
    assert isinstance(winner.result(), StorageError)
    assert isinstance(loser.result(), VectorStoreRaceError)
    assert await stage.store_of(chat_id) is None
    assert await ensure(stage, chat_id)


async def test_a_claim_that_was_lost_leaves_no_store(stage: StorageStage) -> None:
    """The chat's cleanup, say, has removed the row while the provider was at it, and the provider is unwilling."""
    chat_id = await stage.new_chat()
    await stage.script(storage="vector_store_create", delay_ms=150)
    await stage.script(storage="vector_store_delete", http_status=500, times=2)
    async with asyncio.TaskGroup() as tasks:
        creating = tasks.create_task(_failure(ensure(stage, chat_id)))
        await wait_until(lambda: stage.store_of(chat_id))
        async with stage.sessions.begin() as session:
            await session.execute(delete(ChatVectorStore).where(ChatVectorStore.chat_id == chat_id))
    assert isinstance(creating.result(), VectorStoreRaceError)
    assert (await stage.held())[1] == []


async def test_an_abandoned_claim_is_taken_over_and_its_holder_too_late(stage: StorageStage) -> None:
    chat_id = await stage.new_chat()
    dead = await claim(stage, chat_id)
    assert dead is not None
    await change_store(stage, chat_id, created_at=func.now() - ABANDONED_AFTER - timedelta(seconds=1))
    made = await ensure(stage, chat_id)
    async with stage.sessions.begin() as session:
        stores = VectorStoreRepository(session)
        assert not await stores.complete(dead, "vs_late_1")
        await stores.release(dead)
    store = await stage.store_of(chat_id)
    assert store is not None
    assert store.vector_store_id == made


async def test_a_finished_store_is_never_abandoned(stage: StorageStage) -> None:
    chat_id = await stage.new_chat()
    made = await ensure(stage, chat_id)
    await change_store(stage, chat_id, created_at=func.now() - timedelta(days=1))
    assert await claim(stage, chat_id) is None
    assert await ensure(stage, chat_id) == made


async def test_a_store_of_another_backend_is_no_store(stage: StorageStage) -> None:
    chat_id = await stage.new_chat()
    await ensure(stage, chat_id, style="openai")
    with pytest.raises(StoreOfAnotherBackendError):
        await ensure(stage, chat_id, style="azure")


async def test_a_chat_of_another_tenant_gets_none(stage: StorageStage) -> None:
    chat_id = await stage.new_chat()
    stage.tenant_id = UUID(int=1)
    with pytest.raises(VectorStoreRaceError):
        await ensure(stage, chat_id)
    assert (await stage.held())[1] == []


async def _failure(work: Any) -> BaseException | None:
    try:
        await work
    except Exception as error:
        return error
    return None

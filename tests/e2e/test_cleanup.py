"""What users delete is gone at the provider, also if a worker dies over it."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest

from tests.support.catalogs import PREMIUM, STANDARD
from tests.support.deployment import Deployment
from tests.support.turns import create_chat
from tests.support.uploads import attachments_path, files_of, ready
from tests.support.waiting import wait_until


async def held_stores(client: httpx.AsyncClient, product: Deployment) -> set[str]:
    held = (await client.get(f"{product.provider_url}/_control/storage")).json()
    return {store["id"] for store in held["vector_stores"]}


async def store_of(database: asyncpg.Connection, chat_id: str) -> str | None:
    store_id: str | None = await database.fetchval(
        "SELECT vector_store_id FROM chat_vector_stores WHERE chat_id = $1", UUID(chat_id)
    )
    return store_id


async def cleanup_of(database: asyncpg.Connection, chat_id: str) -> list[str | None]:
    rows = await database.fetch("SELECT cleanup_status FROM attachments WHERE chat_id = $1", UUID(chat_id))
    return [row["cleanup_status"] for row in rows]


@pytest.mark.parametrize("model", [STANDARD, PREMIUM], ids=["openai", "azure"])
async def test_71_74_deleted_attachments_and_chats_are_gone_at_the_provider(
    product: Deployment, client: httpx.AsyncClient, database: asyncpg.Connection, model: str
) -> None:
    chat_id = await create_chat(client, model=model)
    first, second = [await ready(client, chat_id) for _ in range(2)]
    store_id = await store_of(database, chat_id)
    assert store_id in await held_stores(client, product)

    assert (await client.delete(attachments_path(chat_id, first["id"]))).status_code == httpx.codes.NO_CONTENT

    async def names() -> list[str]:
        return [file["filename"] for file in await files_of(client, product.provider_url, chat_id)]

    async def has_left_one() -> bool:
        return await names() == [f"{chat_id}_{second['id']}.txt"]

    await wait_until(has_left_one)
    assert store_id in await held_stores(client, product)

    assert (await client.delete(f"/chats/{chat_id}")).status_code == httpx.codes.NO_CONTENT

    async def is_clean() -> bool:
        return not await names() and await store_of(database, chat_id) is None

    await wait_until(is_clean)
    assert store_id not in await held_stores(client, product)
    assert await cleanup_of(database, chat_id) == ["done", "done"]


async def test_a_worker_killed_while_it_deletes_is_followed_by_another(
    product: Deployment, client: httpx.AsyncClient, database: asyncpg.Connection
) -> None:
    chat_id = await create_chat(client, model=STANDARD)
    for _ in range(2):
        await ready(client, chat_id)
    store_id = await store_of(database, chat_id)
    product.queue_scripts({"storage": "file_delete", "delay_ms": 3_600_000})
    assert (await client.delete(f"/chats/{chat_id}")).status_code == httpx.codes.NO_CONTENT
    ids = [file["id"] for file in await files_of(client, product.provider_url, chat_id)]

    async def is_asked() -> bool:
        requests: list[dict[str, Any]] = (await client.get(f"{product.provider_url}/_control/requests")).json()
        return any(request["method"] == "DELETE" and request["path"].endswith(ids[0]) for request in requests)

    await wait_until(is_asked)
    assert "pending" in await cleanup_of(database, chat_id)
    dead = product.workers.pop(0)
    dead.kill()
    product.start_worker()
    await database.execute("UPDATE outbox_messages SET locked_until = now() WHERE partition_key = $1", chat_id)

    async def is_clean() -> bool:
        return await store_of(database, chat_id) is None

    await wait_until(is_clean)
    assert await files_of(client, product.provider_url, chat_id) == []
    assert store_id not in await held_stores(client, product)
    rows = await database.fetch(
        "SELECT cleanup_status, cleanup_attempts FROM attachments WHERE chat_id = $1", UUID(chat_id)
    )
    assert [tuple(row) for row in rows] == [("done", 0)] * 2

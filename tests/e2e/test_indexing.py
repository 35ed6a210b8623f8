"""Documents on their way to `ready`, through real processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import httpx
import pytest

from tests.support.catalogs import PREMIUM, STANDARD
from tests.support.database import cloned_database
from tests.support.deployment import Deployment, deployment
from tests.support.turns import create_chat
from tests.support.uploads import attachments_path, ready, uploaded
from tests.support.waiting import wait_until


@pytest.fixture
async def own_database(template_url: str) -> AsyncIterator[str]:
    async with cloned_database(template_url) as url:
        yield url


async def vector_stores(client: httpx.AsyncClient, running: Deployment) -> dict[str, set[str]]:
    """The ids of the files in each vector store of the provider."""
    stores = (await client.get(f"{running.provider_url}/_control/storage")).json()["vector_stores"]
    return {store["id"]: {file["id"] for file in store["files"]} for store in stores}


@pytest.mark.parametrize("model", [STANDARD, PREMIUM], ids=["openai", "azure"])
async def test_72_concurrent_first_uploads_create_one_vector_store(
    client: httpx.AsyncClient, other_replica: httpx.AsyncClient, product: Deployment, model: str
) -> None:
    chat_id = await create_chat(client, model=model)
    before = await vector_stores(client, product)
    async with asyncio.TaskGroup() as tasks:
        for replica in (client, other_replica) * 4:
            tasks.create_task(ready(replica, chat_id))
    after = await vector_stores(client, product)
    [new] = [files for store_id, files in after.items() if store_id not in before]
    assert len(new) == 8


async def test_a_document_survives_the_death_of_its_worker(own_database: str, spare_valkey_url: str) -> None:
    """Killed while the provider adds the file; the next worker finds the upload, and has it described as well."""
    with deployment(
        database_url=own_database,
        valkey_url=spare_valkey_url,
        apis=1,
        workers=1,
        DOC_SUMMARY__ENABLED="true",
    ) as running:
        async with running.client() as client:
            running.queue_scripts({"storage": "vector_store_add", "delay_ms": 60_000})
            chat_id = await create_chat(client, model=STANDARD)
            attachment = await uploaded(client, chat_id)
            await wait_until(lambda: running.provider_requests(attachment["id"])[1:])
            running.workers[0].kill()
            await _age(own_database)
            running.start_worker()
            path = attachments_path(chat_id, attachment["id"])
            shown: dict[str, Any] = {}

            async def is_described() -> bool:
                shown.update((await client.get(path)).json())
                assert shown["status"] != "failed"
                return "doc_summary" in shown

            await wait_until(is_described, timeout=20)
            assert shown["status"] == "ready"
            assert "notes.txt" in shown["doc_summary"]
            [files] = (await vector_stores(client, running)).values()
            assert len(files) == 1


async def _age(database_url: str) -> None:
    """Let the minutes pass after which an upload without an end is looked after."""
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute("UPDATE attachments SET updated_at = updated_at - interval '5 minutes'")
    finally:
        await connection.close()

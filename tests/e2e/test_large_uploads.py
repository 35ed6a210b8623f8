"""Uploads that are large, slow, many, or left: what they cost a real API process, and what they leave."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from uuid import UUID

import asyncpg
import httpx
import psutil

from shared.clock import SystemClock
from shared.db.engine import open_database
from shared.metrics import Metrics
from shared.model_catalog.source import load_catalog
from shared.providers.client import ProviderClients
from shared.providers.storage import ProviderStorages
from shared.queue.queue import JobQueue
from shared.valkey.client import open_valkey
from tests.support.api import api_settings
from tests.support.deployment import Deployment
from tests.support.problems import assert_problem
from tests.support.slow_upload import SlowUpload
from tests.support.turns import create_chat
from tests.support.uploads import MIB, attachments_path, body, chunked, image, part, send_body, send_file, uploaded
from tests.support.waiting import wait_until
from worker.attachments.failed import FailedAttachments
from worker.attachments.stuck import StuckUploads
from worker.cleanup.files import FileCleanup
from worker.cleanup.removal import Removal

FILE_BYTES = 25 * MIB
PIECES = 100


async def statuses_in(database: asyncpg.Connection, chat_id: str) -> list[str]:
    rows = await database.fetch("SELECT status FROM attachments WHERE chat_id = $1 ORDER BY id", UUID(chat_id))
    return [row["status"] for row in rows]


async def test_25_mib_over_a_slow_link_cost_less_than_5_mib_of_memory(
    client: httpx.AsyncClient, product: Deployment
) -> None:
    chat_id = await create_chat(client)
    await uploaded(client, chat_id, b"x" * MIB)  # what every first upload brings along stays
    process = psutil.Process(product.apis[0].popen.pid)
    before = peak = process.memory_info().rss
    async with SlowUpload.to(client, chat_id, size=FILE_BYTES) as upload:
        for _ in range(PIECES):
            await upload.send(FILE_BYTES // PIECES)
            await asyncio.sleep(0.01)
            peak = max(peak, process.memory_info().rss)
        answering = asyncio.ensure_future(upload.answer())
        await upload.finish()
        while not answering.done():
            await asyncio.sleep(0.002)
            peak = max(peak, process.memory_info().rss)
    assert (await answering)[0] == 201
    assert peak - before < 5 * MIB


async def test_the_11th_at_once_is_told_to_come_again(client: httpx.AsyncClient, database: asyncpg.Connection) -> None:
    chat_id = await create_chat(client)
    async with AsyncExitStack() as stack:
        uploads = [await stack.enter_async_context(SlowUpload.to(client, chat_id, size=20)) for _ in range(10)]
        await asyncio.gather(*(upload.send(10) for upload in uploads))

        async def are_there() -> bool:
            return await statuses_in(database, chat_id) == ["pending"] * 10

        await wait_until(are_there)
        refused = await send_file(client, chat_id)
        assert_problem(refused, 503, "upload_concurrency_limit")
        assert refused.headers["Retry-After"] == "5"
        for upload in uploads:
            await upload.send(10)
            await upload.finish()
        assert {(await upload.answer())[0] for upload in uploads} == {201}
    await uploaded(client, chat_id)


async def test_a_client_that_leaves_in_the_middle_leaves_a_failed_row(
    client: httpx.AsyncClient, database: asyncpg.Connection
) -> None:
    chat_id = await create_chat(client)
    async with SlowUpload.to(client, chat_id, size=FILE_BYTES) as upload:
        await upload.send(MIB)
        upload.leave()

    async def has_failed() -> bool:
        return await statuses_in(database, chat_id) == ["failed"]

    await wait_until(has_failed)
    await uploaded(client, chat_id)


async def test_69_a_body_that_is_too_large_is_refused_while_it_is_sent(client: httpx.AsyncClient) -> None:
    """The connection stays usable, and the client gets to read the answer."""
    chat_id = await create_chat(client)
    for content in (b"\0" * (26 * MIB), b"\0" * (25 * MIB + 1)):
        whole = body(part(content, filename="a.pdf", content_type="application/pdf"))
        assert_problem(await send_body(client, chat_id, chunked(whole)), 413, "file_too_large")
    await uploaded(client, chat_id)


async def test_a_bomb_costs_the_api_no_memory(client: httpx.AsyncClient, product: Deployment) -> None:
    chat_id = await create_chat(client)
    await uploaded(client, chat_id, image(), filename="a.png", content_type="image/png")
    process = psutil.Process(product.apis[0].popen.pid)
    before = process.memory_info().rss
    bomb = image("RGBA", (5_790, 5_790))
    shown = await uploaded(client, chat_id, bomb, filename="bomb.png", content_type="image/png")
    assert shown["img_thumbnail"]["width"] == 128
    assert process.memory_info().rss - before < 5 * MIB
    assert process.children() == []


async def test_what_a_killed_api_was_at_is_ended_by_a_worker(
    client: httpx.AsyncClient, product: Deployment, database: asyncpg.Connection
) -> None:
    """One upload dies while its file arrives, one while the provider stores it."""
    chat_id = await create_chat(client)
    product.queue_scripts({"storage": "files", "delay_ms": 60_000})
    with product.extra_api() as process:
        async with product.client(api=process) as doomed:
            doomed.headers["Authorization"] = client.headers["Authorization"]
            async with (
                SlowUpload.to(doomed, chat_id, size=20) as receiving,
                SlowUpload.to(doomed, chat_id, size=5) as storing,
            ):
                await receiving.send(10)
                await storing.send(5)
                await storing.finish()

                async def are_on_their_way() -> bool:
                    asked = product.provider_requests(chat_id)
                    return await statuses_in(database, chat_id) == ["pending"] * 2 and bool(asked)

                await wait_until(are_on_their_way)
                process.kill()
    assert await statuses_in(database, chat_id) == ["pending"] * 2
    aged = """
        UPDATE attachments
        SET created_at = created_at - interval '16 minutes', updated_at = updated_at - interval '16 minutes'
        WHERE chat_id = $1
    """
    await database.execute(aged, UUID(chat_id))
    await run_stuck_uploads(product)
    assert await statuses_in(database, chat_id) == ["failed"] * 2
    async with httpx.AsyncClient() as provider:
        held = (await provider.get(f"{product.provider_url}/_control/storage")).json()["files"]
    assert not [file for file in held if file["filename"].startswith(chat_id)]
    attachment_id = await database.fetchval("SELECT id FROM attachments WHERE chat_id = $1 LIMIT 1", UUID(chat_id))
    shown = (await client.get(attachments_path(chat_id, str(attachment_id)))).json()
    assert (shown["status"], shown["error_code"]) == ("failed", "upload_failed")


async def run_stuck_uploads(product: Deployment) -> None:
    """One pass, as a worker does every five minutes."""
    settings = api_settings(
        database_url=product.database_url,
        valkey_url=product.valkey_url,
        catalog={"path": product.variables["CATALOG__PATH"]},
    )
    metrics = Metrics("test")
    clients = ProviderClients(load_catalog(settings).providers)
    storages = ProviderStorages(clients, metrics)
    try:
        async with open_database(settings.database) as (_, sessions), open_valkey(settings.redis) as valkey:
            files = FileCleanup(sessions, Removal(storages, metrics), metrics, max_attempts=5)
            await StuckUploads(
                sessions=sessions,
                storages=storages,
                failed=FailedAttachments(sessions, files),
                queue=JobQueue(valkey, settings),
                metrics=metrics,
                clock=SystemClock(),
            ).run()
    finally:
        await clients.aclose()

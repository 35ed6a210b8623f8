"""Whether uploads are in the way of streams: how long deltas take to clients while none, and while ten files arrive.

Streams come from the fast provider; files go to a scripted provider of their own, through the same API process. Each
upload is as large as a document may be, over a link of its own that is as fast as a good connection of a user.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import httpx

from api.demo_provider.main import serving
from tests.bench.measure import Repeats, percentile, report
from tests.bench.stage import Stage, script, stage
from tests.support.catalogs import PREMIUM, acceptance_catalog
from tests.support.slow_upload import SlowUpload
from tests.support.turns import create_chat
from tests.support.uploads import MIB

AT_ONCE = (0, 10)
FILE_BYTES = 25 * MIB
BYTES_PER_SECOND = 5 * MIB
PIECE_BYTES = 64 * 1024
TOKENS = 30
TURNS_PER_SECOND = 20
WARM_UP_TURNS = 30
SETTLE_SECS = 1.0


@dataclass
class Progress:
    sent_bytes: int = 0
    finished: int = 0


async def bench(*, repeats: int, quick: bool) -> None:
    count = TURNS_PER_SECOND * (5 if quick else 15)
    found: dict[int, list[tuple[list[float], float, int]]] = {at_once: [] for at_once in AT_ONCE}
    async with serving(host="127.0.0.1", port=0) as storage_url:
        make_catalog = partial(_catalog, storage_port=int(storage_url.rpartition(":")[2]))
        settings = {"RAG__MAX_TOTAL_UPLOAD_MB_PER_CHAT": "1000000", "RAG__MAX_DOCUMENTS_PER_CHAT": "1000000"}
        async with stage(apis=1, workers=1, make_catalog=make_catalog, **settings) as it:
            await _measure(it, at_once=0, count=WARM_UP_TURNS)
            for _ in range(repeats):
                for at_once, samples in found.items():
                    samples.append(await _measure(it, at_once=at_once, count=count))
    report(
        "uploads",
        f"First deltas at {TURNS_PER_SECOND} turns/s beside uploads: median (range) of {repeats} repeats",
        [
            {
                "uploads at once": at_once,
                "p50 ms": Repeats(tuple(percentile(lags, 50) for lags, _, _ in samples)),
                "p99 ms": Repeats(tuple(percentile(lags, 99) for lags, _, _ in samples)),
                "MiB/s": Repeats(tuple(rate / MIB for _, rate, _ in samples)),
                "files": sum(finished for _, _, finished in samples),
            }
            for at_once, samples in found.items()
        ],
    )


def _catalog(*, provider_port: int, storage_port: int) -> dict[str, Any]:
    """The premium model's provider is the one that files go to; turns ask the standard one."""
    tree = acceptance_catalog(provider_port=provider_port)
    tree["providers"]["azure_openai"]["port"] = storage_port
    return tree


async def _measure(it: Stage, *, at_once: int, count: int) -> tuple[list[float], float, int]:
    """Milliseconds to each client, bytes of files a second, and how many have arrived as a whole."""
    chats = await it.make_chats(count)
    progress = Progress()
    async with _uploading(it, at_once, progress):
        await asyncio.sleep(SETTLE_SECS)
        began, before = time.monotonic(), progress.sent_bytes
        sample = await it.run_turns(chats, content=script(tokens=TOKENS, rate=TOKENS), rate=TURNS_PER_SECOND)
        rate = (progress.sent_bytes - before) / (time.monotonic() - began)
    return sample["delta"], rate, progress.finished


@asynccontextmanager
async def _uploading(it: Stage, at_once: int, progress: Progress) -> AsyncIterator[None]:
    """Upload one file after the other, on so many connections, for the length of the block."""
    async with it.product.client(it.caller) as client, asyncio.TaskGroup() as tasks:
        chat_id = await create_chat(client, model=PREMIUM)
        running = [tasks.create_task(_upload_again_and_again(client, chat_id, progress)) for _ in range(at_once)]
        yield
        for task in running:
            task.cancel()


async def _upload_again_and_again(client: httpx.AsyncClient, chat_id: str, progress: Progress) -> None:
    loop = asyncio.get_running_loop()
    while True:
        async with SlowUpload.to(client, chat_id, size=FILE_BYTES) as upload:
            began = loop.time()
            for sent in range(0, FILE_BYTES, PIECE_BYTES):
                await asyncio.sleep(max(0.0, began + sent / BYTES_PER_SECOND - loop.time()))
                await upload.send(PIECE_BYTES)
                progress.sent_bytes += PIECE_BYTES
            await upload.finish()
            status, _ = await upload.answer()
            if status != httpx.codes.CREATED:
                raise RuntimeError(f"an upload was answered by {status}")
            progress.finished += 1

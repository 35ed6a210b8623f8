"""How long a stop takes: from the cancel, at another replica than the stream's, to the provider's closed socket.

The end is read from the scripted provider's journal, which notes when its caller has hung up.
"""

from __future__ import annotations

import asyncio
import time

from shared.db.migrate import migrate
from shared.ids import new_uuid4
from shared.settings import DatabaseSettings, Settings
from tests.bench.measure import Repeats, percentile, report
from tests.support.deployment import Deployment, deployment
from tests.support.engines import TestEngines
from tests.support.sse import open_stream
from tests.support.turns import create_chat, message, scripted, send_path, turn_path
from tests.support.waiting import wait_until

STOPS, QUICK_STOPS = 100, 30
AT_ONCE = (1, 8)
"""How many stops are under way at a time."""


async def bench(*, repeats: int, quick: bool) -> None:
    with TestEngines() as engines:
        database = DatabaseSettings.model_validate({"url": engines.database_url})
        await asyncio.to_thread(migrate, Settings(database=database))
        with deployment(database_url=engines.database_url, valkey_url=engines.redis_url, apis=2, workers=1) as product:
            await _bench(product, repeats=repeats, stops=QUICK_STOPS if quick else STOPS)


async def _bench(product: Deployment, *, repeats: int, stops: int) -> None:
    found: dict[int, list[list[tuple[float, float]]]] = {at_once: [] for at_once in AT_ONCE}
    for _ in range(repeats):
        for at_once, samples in found.items():
            samples.append(await _measure(product, stops=stops, at_once=at_once))
    rows = [
        {
            "at once": at_once,
            "latency": name,
            "p50 ms": Repeats(tuple(percentile([sample[part] for sample in one], 50) for one in samples)),
            "p99 ms": Repeats(tuple(percentile([sample[part] for sample in one], 99) for one in samples)),
            "stops": stops * repeats,
        }
        for at_once, samples in found.items()
        for part, name in enumerate(_MEANINGS)
    ]
    report("stop", f"Stop, over two replicas: median (range) of {repeats} repeats", rows)


_MEANINGS = (
    "POST …/cancel sent → provider's socket closed",
    "POST …/cancel sent → answered, turn cancelled",
)


async def _measure(product: Deployment, *, stops: int, at_once: int) -> list[tuple[float, float]]:
    """Milliseconds to the closed socket and to the answer, for each stop."""
    places = asyncio.Semaphore(at_once)
    async with product.client(api=0) as first, product.client(api=1) as second:
        second.headers = first.headers

        async def one(index: int) -> tuple[str, float, float]:
            async with places:
                here, there = (first, second) if index % 2 else (second, first)
                chat_id, marker = await create_chat(here), new_uuid4().hex
                body = message(scripted(marker, tokens=2_000, rate=50))
                async with open_stream(here, "POST", send_path(chat_id), json=body) as stream:
                    await stream.until("delta")
                    sent = time.time()
                    answer = await there.post(f"{turn_path(chat_id, body['request_id'])}/cancel")
                    answered = time.time()
                    assert answer.json()["state"] == "cancelled", answer.text
                    await stream.rest()
                return marker, sent, answered

        stopped = await asyncio.gather(*(one(index) for index in range(stops)))
    samples = []
    for marker, sent, answered in stopped:
        await wait_until(lambda: product.provider_requests(marker)[0]["closed_by_caller_at"])  # noqa: B023
        closed = product.provider_requests(marker)[0]["closed_by_caller_at"]
        samples.append(((closed - sent) * 1000, (answered - sent) * 1000))
    return samples

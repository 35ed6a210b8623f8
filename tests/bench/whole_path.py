"""How long a turn takes through all processes, at a steady rate of new turns.

Two latencies, both between clocks of the same machine: from the provider's first delta on its socket to the client that
reads it, and from the client's POST to the request at the provider. Chats are made before the clock starts.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from itertools import chain

import httpx

from shared.ids import new_uuid4
from tests.bench.measure import Repeats, percentile, report
from tests.support.deployment import Deployment
from tests.support.sse import open_stream
from tests.support.tokens import Caller
from tests.support.turns import create_chat, message, scripted, send_path

TOKENS = 30
TOKENS_PER_SECOND = 30
RATES = ((1, 15), (20, 10))
"""New turns a second, and for how many seconds."""
WARM_UP_TURNS = 20


@dataclass
class Sample:
    """Milliseconds, one value per turn."""

    first_delta: list[float] = field(default_factory=list)
    provider_asked: list[float] = field(default_factory=list)
    stream_started: list[float] = field(default_factory=list)


async def bench(product: Deployment, *, repeats: int) -> None:
    samples: dict[int, list[Sample]] = {rate: [] for rate, _ in RATES}
    async with httpx.AsyncClient(
        base_url=str(product.client().base_url),
        headers=Caller().headers,
        timeout=60,
        limits=httpx.Limits(max_connections=None),
    ) as client:
        await _measure(product, client, rate=20, count=WARM_UP_TURNS)
        for _ in range(repeats):
            for rate, seconds in RATES:
                samples[rate].append(await _measure(product, client, rate=rate, count=rate * seconds))
    rows = []
    for rate, found in samples.items():
        for name in ("first_delta", "provider_asked", "stream_started"):
            values = [getattr(sample, name) for sample in found]
            rows.append(
                {
                    "turns/s": rate,
                    "latency": _MEANINGS[name],
                    "p50 ms": Repeats(tuple(percentile(one, 50) for one in values)),
                    "p99 ms": Repeats(tuple(percentile(one, 99) for one in values)),
                    "turns": len(list(chain.from_iterable(values))),
                }
            )
    report("whole_path", f"Whole path: median (range) of {repeats} repeats", rows)


_MEANINGS = {
    "first_delta": "provider's first delta written → client has it",
    "provider_asked": "POST sent → provider request received",
    "stream_started": "POST sent → stream_started at the client",
}


async def _measure(product: Deployment, client: httpx.AsyncClient, *, rate: int, count: int) -> Sample:
    chats = [await create_chat(client) for _ in range(count)]
    sample = Sample()
    marker = new_uuid4().hex
    async with httpx.AsyncClient() as control:
        await control.delete(f"{product.provider_url}/_control/requests")
    started = asyncio.get_running_loop().time()
    sent: dict[str, float] = {}
    seen: dict[str, float] = {}
    async with asyncio.TaskGroup() as tasks:
        for index, chat_id in enumerate(chats):
            await asyncio.sleep(max(0.0, started + index / rate - asyncio.get_running_loop().time()))
            tasks.create_task(_turn(client, chat_id, f"{marker}-{index}.", sent, seen, sample))
    for request in product.provider_requests(marker):
        key = next(key for key in sent if key in str(request["body"]))
        sample.first_delta.append((seen[key] - request["first_delta_at"]) * 1000)
        sample.provider_asked.append((request["received_at"] - sent[key]) * 1000)
    return sample


async def _turn(
    client: httpx.AsyncClient,
    chat_id: str,
    key: str,
    sent: dict[str, float],
    seen: dict[str, float],
    sample: Sample,
) -> None:
    content = scripted(key, tokens=TOKENS, rate=TOKENS_PER_SECOND)
    sent[key] = time.time()
    async with open_stream(client, "POST", send_path(chat_id), json=message(content)) as stream:
        await stream.until("stream_started")
        sample.stream_started.append((time.time() - sent[key]) * 1000)
        await stream.until("delta")
        seen[key] = time.time()
        await stream.rest()

"""What a delta costs a worker, and how many streams one process carries, beside the usual way to write it.

Ours is a worker process of the product with real turns: claimed, planned, streamed, leased. The baseline is
`tests.bench.typed_loop`, which does none of that. Both are fed by the same provider. Latency is from the provider's
write to the entry in the log: ours as heard by a subscriber, the baseline's when its XADD has returned.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from tests.bench.measure import Repeats, report
from tests.bench.relay_targets import Helper
from tests.bench.stage import Stage, cpu_secs, script, stage
from tests.support.waiting import wait_until

OURS, BASELINE = "mini-chat worker", "typed loop, awaited XADD"
STREAMS, RATES = 100, (20, 50)
KEPT_UP_MS = 50
MOST_STREAMS = 1_600
LIMIT_RATE = 20
FOR_EVER = 1_000_000


@dataclass(frozen=True)
class Window:
    """What one process did in a few seconds."""

    deltas: int
    cpu_secs: float
    p50: float
    p99: float

    @property
    def us_per_delta(self) -> float:
        return self.cpu_secs / max(1, self.deltas) * 1e6


async def bench(*, repeats: int, quick: bool) -> None:
    async with stage(apis=0, workers=0, WORKER__MAX_JOBS="4096", WORKER__DRAIN_SECS="0") as it:
        listener = Helper("tests.bench.live_listener")
        try:
            address = urlsplit(it.engines.redis_url)
            await listener.ask("connect", port=address.port, password=address.password)
            await _bench_cost(it, listener, repeats=repeats, secs=2.0 if quick else 4.0)
            if not quick:
                await _bench_limits(it, listener)
        finally:
            listener.stop()


async def _bench_cost(it: Stage, listener: Helper, *, repeats: int, secs: float) -> None:
    found: dict[tuple[int, str], list[Window]] = defaultdict(list)
    for _ in range(repeats):
        for rate in RATES:
            found[rate, OURS].append(await _ours(it, listener, streams=STREAMS, rate=rate, secs=secs))
            found[rate, BASELINE].append(await _baseline(it, streams=STREAMS, rate=rate, secs=secs))
    report(
        "worker",
        f"One process, {STREAMS} streams: median (range) of {repeats} repeats",
        [
            {
                "deltas/s per stream": rate,
                "process": name,
                "CPU us/delta": Repeats(tuple(window.us_per_delta for window in windows)),
                "p50 ms": Repeats(tuple(window.p50 for window in windows)),
                "p99 ms": Repeats(tuple(window.p99 for window in windows)),
                "deltas/s": Repeats(tuple(window.deltas / secs for window in windows)),
            }
            for (rate, name), windows in found.items()
        ],
    )


async def _bench_limits(it: Stage, listener: Helper) -> None:
    rows = []
    for name in (OURS, BASELINE):
        kept, failed, count = 0, None, 50
        while failed is None and count <= MOST_STREAMS:
            if await _keeps_up(it, listener, name, count):
                kept, count = count, count * 2
            else:
                failed = count
        rows.append({"process": name, "streams kept up": kept, "not kept up": failed or "-"})
    report("worker_limits", f"Streams at {LIMIT_RATE} deltas/s with p99 below {KEPT_UP_MS} ms", rows)


async def _keeps_up(it: Stage, listener: Helper, name: str, streams: int) -> bool:
    if name == OURS:
        window = await _ours(it, listener, streams=streams, rate=LIMIT_RATE, secs=2.0)
    else:
        window = await _baseline(it, streams=streams, rate=LIMIT_RATE, secs=2.0)
    return window.p99 < KEPT_UP_MS and window.deltas > 0.9 * streams * LIMIT_RATE * 2.0


async def _ours(it: Stage, listener: Helper, *, streams: int, rate: float, secs: float) -> Window:
    """A new worker takes `streams` turns; the window begins once all of them stream."""
    await insert_waiting_turns(it, streams, content=script(tokens=FOR_EVER, rate=rate))
    worker = it.product.start_worker()
    try:
        await wait_until(lambda: _are_streaming(it, streams), timeout=60, interval=0.2)
        await asyncio.sleep(1.0)
        await listener.ask("reset")
        before = cpu_secs(worker)
        await asyncio.sleep(secs)
        cpu = cpu_secs(worker) - before
        told = await listener.ask("told")
    finally:
        worker.kill()
        it.product.workers.remove(worker)
        await it.database.execute("DELETE FROM chats")
        with it.product.valkey() as valkey:
            valkey.flushdb()
    return Window(told["deltas"], cpu, told["p50"], told["p99"])


async def _are_streaming(it: Stage, streams: int) -> bool:
    """The provider's deltas have reached every log: a claimed turn has more in it than its opening."""
    with it.product.valkey() as valkey:
        keys: Any = list(valkey.scan_iter("mc:*:events", count=1_000))
        with valkey.pipeline(transaction=False) as pipeline:
            for key in keys:
                pipeline.xlen(key)
            return len(keys) >= streams and min(pipeline.execute()) > 2


async def _baseline(it: Stage, *, streams: int, rate: float, secs: float) -> Window:
    loop = Helper("tests.bench.typed_loop")
    try:
        await loop.ask(
            "start",
            redis_url=it.engines.redis_url,
            provider_port=it.product.provider.port,
            streams=streams,
            content=script(tokens=FOR_EVER, rate=rate),
        )
        await asyncio.sleep(2.0 + streams / 200)
        window = await loop.ask("window", secs=secs)
    finally:
        loop.stop()
        with it.product.valkey() as valkey:
            valkey.flushdb()
    return Window(window["deltas"], window["cpu_secs"], window["p50"], window["p99"])


async def insert_waiting_turns(it: Stage, count: int, *, content: str, own: bool = False) -> list[tuple[UUID, UUID]]:
    """Running turns that nobody holds, which a worker's sweeper finds within seconds.

    Args:
        own: all of the stage's user; else each of another.
    """
    rows = await it.database.fetch(
        """
        WITH chat AS (
            INSERT INTO chats (id, tenant_id, user_id, model, created_at, updated_at)
            SELECT gen_random_uuid(), $1, coalesce($5, gen_random_uuid()), $2, now(), now() FROM generate_series(1, $3)
            RETURNING id, user_id
        ), turn AS (
            INSERT INTO chat_turns (id, tenant_id, chat_id, request_id, requester_type, requester_user_id, state,
                planned_message_id, effective_model, max_output_tokens_applied, policy_version_applied,
                quota_decision, on_disconnect, on_worker_loss, started_at, last_progress_at, updated_at)
            SELECT gen_random_uuid(), $1, id, gen_random_uuid(), 'user', user_id, 'running', gen_random_uuid(), $2,
                8192, 1, 'allow', 'continue', 'restart', now() - interval '5 seconds',
                now() - interval '5 seconds', now()
            FROM chat RETURNING chat_id, request_id
        ), message AS (
            INSERT INTO messages (id, tenant_id, chat_id, request_id, role, content, created_at)
            SELECT gen_random_uuid(), $1, chat_id, request_id, 'user', $4, now() - interval '5 seconds' FROM turn
        )
        SELECT chat_id, request_id FROM turn
        """,
        it.caller.tenant_id,
        "gpt-5.2",
        count,
        content,
        it.caller.user_id if own else None,
    )
    return [(row["chat_id"], row["request_id"]) for row in rows]

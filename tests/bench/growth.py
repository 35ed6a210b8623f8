"""Whether anything grows dearer as the product fills up: running turns, long chats, many chats. Curves must be flat."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import matplotlib as mpl
import redis

from tests.bench.measure import PLOTS, percentile, report
from tests.bench.relay_targets import Helper
from tests.bench.stage import MODEL, Stage, cpu_secs, script, stage
from tests.bench.worker import insert_waiting_turns
from tests.support.api import BASE
from tests.support.waiting import wait_until

mpl.use("Agg")
from matplotlib import pyplot as plt

RUNNING = (10, 100, 500, 1_000, 2_000)
LENGTHS = (10, 100, 1_000, 10_000)
CHATS = (10, 100, 1_000, 10_000)
EVENTS_PER_SECOND, MOST_PER_TURN = 1_000, 20
"""Of all turns that are held open, and of one of them."""
PROBES = 20
PROBE_RATE = 5
FOR_EVER = 1_000_000
PROBE = script(tokens=5, rate=50)

Row = dict[str, Any]


async def bench(*, repeats: int, quick: bool) -> None:
    running = await _bench_running(RUNNING[:3] if quick else RUNNING, secs=3.0 if quick else 5.0)
    lengths, chats = await _bench_sizes(repeats=1 if quick else repeats)
    plot(
        "growth",
        [
            ("running turns", running, ("API us/event", "worker us/event")),
            ("running turns", running, ("POST → stream_started ms", "delta → client ms")),
            ("messages in the chat", lengths, ("POST → provider asked ms", "GET messages ms")),
            ("chats of the user", chats, ("POST → provider asked ms", "GET chats ms")),
        ],
    )


async def _bench_running(counts: Sequence[int], *, secs: float) -> list[Row]:
    """Turns held open, a client at each; and, beside them, turns that come and go."""
    rows = []
    listener = Helper("tests.bench.relay_client")
    try:
        for count in counts:
            rate = min(MOST_PER_TURN, EVENTS_PER_SECOND / count)
            async with stage(apis=1, workers=1, WORKER__MAX_JOBS="4096") as it:
                held = await insert_waiting_turns(it, count, content=script(tokens=FOR_EVER, rate=rate), own=True)
                with it.product.valkey() as valkey:
                    await wait_until(lambda: _are_open(valkey, count), timeout=90, interval=0.2)  # noqa: B023
                api, worker = it.product.apis[0], it.product.workers[0]
                requests = [
                    f"GET {BASE}/chats/{chat_id}/turns/{request_id}/events HTTP/1.1\r\nHost: bench\r\n{it.headers}\r\n"
                    for chat_id, request_id in held
                ]
                await listener.ask("open", port=api.port, requests=requests)
                await asyncio.sleep(2.0)
                begin, before = time.time_ns(), (cpu_secs(api), cpu_secs(worker))
                await asyncio.sleep(secs)
                end, after = time.time_ns(), (cpu_secs(api), cpu_secs(worker))
                seen = await listener.ask("window", begin=begin, end=end)
                probes = await it.run_turns(await it.make_chats(PROBES), content=PROBE, rate=PROBE_RATE)
                await listener.ask("close")
            events = max(1, seen["events"])
            rows.append(
                {
                    "running turns": count,
                    "API us/event": round((after[0] - before[0]) / events * 1e6),
                    "worker us/event": round((after[1] - before[1]) / events * 1e6),
                    "delta → client ms": round(seen["p50"], 2),
                    "POST → stream_started ms": round(percentile(probes["started"], 50), 1),
                    "POST → provider asked ms": round(percentile(probes["asked"], 50), 1),
                }
            )
    finally:
        listener.stop()
    report("growth_running", f"Turns that run, a client at each, {EVENTS_PER_SECOND} events/s together", rows)
    return rows


def _are_open(valkey: redis.Redis, count: int) -> bool:
    return sum(1 for _ in valkey.scan_iter("mc:*:events", count=1_000)) >= count


async def _bench_sizes(*, repeats: int) -> tuple[list[Row], list[Row]]:
    async with stage(apis=1, workers=1) as it:
        await it.run_turns(await it.make_chats(PROBES), content=PROBE, rate=PROBE_RATE)
        lengths = [await _probe_length(it, length, repeats=repeats) for length in LENGTHS]
        chats = [await _probe_chats(it, count, repeats=repeats) for count in CHATS]
    report("growth_chat", "Turns of a chat that has so many messages already", lengths)
    report("growth_chats", "Turns of a user who has so many chats already", chats)
    return lengths, chats


async def _probe_length(it: Stage, length: int, *, repeats: int) -> Row:
    chats = await it.make_chats(4)
    for chat_id in chats:
        await insert_messages(it, chat_id, length)
    await it.database.execute("ANALYZE")
    found = [await _probe(it, chats, f"/chats/{chats[0]}/messages?limit=20") for _ in range(repeats)]
    return {"messages in the chat": length} | _medians(found, "GET messages ms")


async def _probe_chats(it: Stage, count: int, *, repeats: int) -> Row:
    have = await it.database.fetchval("SELECT count(*) FROM chats WHERE user_id = $1", it.caller.user_id)
    await it.make_chats(max(0, count - have))
    await it.database.execute("ANALYZE")
    found = [await _probe(it, await it.make_chats(4), "/chats?limit=20") for _ in range(repeats)]
    return {"chats of the user": count} | _medians(found, "GET chats ms")


async def _probe(it: Stage, chats: list[UUID], path: str) -> dict[str, float]:
    """Five rounds of one turn in each chat, then a list that is read again and again."""
    started, asked = [], []
    for _ in range(5):
        sample = await it.run_turns(chats, content=PROBE, rate=PROBE_RATE * 2)
        started += sample["started"]
        asked += sample["asked"]
    gets = []
    async with it.product.client(it.caller) as client:
        for _ in range(PROBES):
            began = time.perf_counter()
            (await client.get(path)).raise_for_status()
            gets.append((time.perf_counter() - began) * 1000)
    return {"started": percentile(started, 50), "asked": percentile(asked, 50), "get": percentile(gets, 50)}


def _medians(found: Sequence[Mapping[str, float]], get: str) -> Row:
    def median(name: str) -> float:
        return round(percentile([one[name] for one in found], 50), 1)

    return {
        "POST → stream_started ms": median("started"),
        "POST → provider asked ms": median("asked"),
        get: median("get"),
    }


async def insert_messages(it: Stage, chat_id: UUID, count: int) -> None:
    """Ended turns of a question and an answer each, a second apart."""
    await it.database.execute(
        """
        WITH turn AS (
            INSERT INTO chat_turns (id, tenant_id, chat_id, request_id, requester_type, requester_user_id, state,
                planned_message_id, effective_model, started_at, last_progress_at, completed_at, updated_at)
            SELECT gen_random_uuid(), $1, $2, gen_random_uuid(), 'user', $3, 'completed', gen_random_uuid(), $4,
                   at, at, at, at
            FROM (SELECT now() - n * interval '1 second' AS at FROM generate_series(1, $5 / 2) AS n) AS moments
            RETURNING request_id, started_at
        )
        INSERT INTO messages (id, tenant_id, chat_id, request_id, role, content, created_at, model,
            input_tokens, output_tokens)
        SELECT gen_random_uuid(), $1, $2, request_id, role, 'Some words, as people write them.',
               started_at + place * interval '1 millisecond', $4, 10 * place, 10 * place
        FROM turn CROSS JOIN (VALUES ('user', 0), ('assistant', 1)) AS roles (role, place)
        """,
        it.caller.tenant_id,
        chat_id,
        it.caller.user_id,
        MODEL,
        count,
    )


def plot(name: str, panels: Sequence[tuple[str, Sequence[Row], Sequence[str]]]) -> None:
    """Lines over a logarithmic axis, a panel each, as a small PNG."""
    figure, axes = plt.subplots(1, len(panels), figsize=(4 * len(panels), 3), layout="constrained")
    for axis, (x, rows, lines) in zip(axes, panels, strict=True):
        for line in lines:
            axis.plot([row[x] for row in rows], [row[line] for row in rows], marker="o", label=line)
        axis.set_xscale("log")
        axis.set_ylim(bottom=0)
        axis.set_xlabel(x)
        axis.legend(fontsize="x-small")
        axis.grid(alpha=0.3)
    PLOTS.mkdir(exist_ok=True)
    figure.savefig(PLOTS / f"{name}.png", dpi=70)
    plt.close(figure)

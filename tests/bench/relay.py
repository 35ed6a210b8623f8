"""What it costs to carry events to clients, beside two baselines that carry the same events.

A producer appends to N logs at a steady rate; every server in turn streams them to N clients. Latency is from the
append to the client's read, on one clock; CPU time is the server process's own. Runs of the servers alternate.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from tests.bench.measure import Repeats, report
from tests.bench.relay_targets import Rig, Target, rig

RATE = 20
"""Events a second of each stream."""
STREAMS = (50, 200, 1_000, 2_000)
QUICK_STREAMS = (50, 200)
KEPT_UP_MS = 50
MOST_STREAMS = 4_000
STORM_CLIENTS = 200
STORM_EVENTS = 200
SLOW_STREAMS = 200
SLOW_EVENTS = 50_000
"""More than the sockets' buffers hold."""
IDLE_SETTLE_SECS = 2.0


@dataclass(frozen=True)
class Sample:
    """One run of one server; per event means per event that a client has read."""

    p50: float
    p99: float
    cpu: float
    valkey_cpu: float
    commands: float
    connections: float
    client_cpu: float
    events: float


_HEADINGS = {
    "p50": "p50 ms",
    "p99": "p99 ms",
    "cpu": "CPU us/event",
    "valkey_cpu": "Valkey us/event",
    "commands": "Redis commands/event",
    "connections": "Redis connections",
    "client_cpu": "load client us/event",
    "events": "events/s",
}


async def bench(*, repeats: int, quick: bool) -> None:
    """Start everything, measure and report. Takes about 5 minutes, 1 if `quick`."""
    idle = 1_000 if quick else 10_000
    async with rig(turns=idle) as it:
        await _bench_idle(it, clients=idle, baseline_clients=500 if quick else 2_000)
        await _bench_steady(it, QUICK_STREAMS if quick else STREAMS, repeats=repeats, secs=1.5 if quick else 2.0)
        if not quick:
            await _bench_limits(it)
        await _bench_storm(it, repeats=repeats)
        await _bench_slow_reader(it, secs=2.0 if quick else 4.0)


async def _bench_steady(it: Rig, counts: Sequence[int], *, repeats: int, secs: float) -> None:
    found: dict[tuple[int, str], list[Sample]] = defaultdict(list)
    for _ in range(repeats):
        for count in counts:
            for target in it.targets:
                found[count, target.name].append(await _run(it, target, count, secs=secs))
    report(
        "relay",
        f"Relay, {RATE} events/s per stream: median (range) of {repeats} repeats",
        [{"streams": count, "server": name} | _summary(samples) for (count, name), samples in found.items()],
    )


def _summary(samples: Sequence[Sample]) -> dict[str, Any]:
    return {
        _HEADINGS[field.name]: Repeats(tuple(getattr(sample, field.name) for sample in samples))
        for field in fields(Sample)
    }


async def _run(it: Rig, target: Target, count: int, *, secs: float) -> Sample:
    """Stream `count` logs for `secs` seconds, after one second to settle."""
    turns = it.turns[:count]
    await it.producer.ask("reset", turns=turns, events=0)
    await it.clients.ask("open", port=target.port, requests=target.requests(turns))
    await it.producer.ask("start", rate=RATE)
    await asyncio.sleep(1.0)
    begin, before = time.time_ns(), await _costs(it, target)
    await asyncio.sleep(secs)
    end, after = time.time_ns(), await _costs(it, target)
    connections = it.connections_of(target)
    await it.producer.ask("stop")
    seen = await it.clients.ask("window", begin=begin, end=end)
    await it.clients.ask("close")
    if seen["lost"]:
        raise RuntimeError(f"{target.name} has closed {seen['lost']} streams")
    events = max(1, seen["events"])
    cpu, valkey_cpu, client_cpu, commands = ((late - early) / events for early, late in zip(before, after, strict=True))
    return Sample(
        p50=seen["p50"],
        p99=seen["p99"],
        cpu=cpu * 1e6,
        valkey_cpu=valkey_cpu * 1e6,
        client_cpu=client_cpu * 1e6,
        commands=commands,
        connections=connections,
        events=events / ((end - begin) / 1e9),
    )


async def _costs(it: Rig, target: Target) -> tuple[float, float, float, float]:
    client = await it.clients.ask("cpu")
    return target.cpu_secs, it.valkey_cpu_secs, client["secs"], it.commands_of_readers()


async def _bench_limits(it: Rig) -> None:
    rows = []
    for target in it.targets:
        kept, tried = await _limit(it, target)
        rows.append({"server": target.name, "streams kept up": kept, "not kept up": tried or "-"})
    report("relay_limits", f"Streams at {RATE} events/s with p99 below {KEPT_UP_MS} ms", rows)


async def _limit(it: Rig, target: Target) -> tuple[int, int | None]:
    """The largest number kept up with, and the smallest that was not: doubling, then halving the way twice."""
    kept, failed, count = 0, None, 200
    while failed is None and count <= MOST_STREAMS:
        if await _keeps_up(it, target, count):
            kept, count = count, count * 2
        else:
            failed = count
    for _ in range(2 if failed is not None else 0):
        assert failed is not None
        middle = (kept + failed) // 2
        if await _keeps_up(it, target, middle):
            kept = middle
        else:
            failed = middle
    return kept, failed


async def _keeps_up(it: Rig, target: Target, count: int) -> bool:
    return (await _run(it, target, count, secs=1.5)).p99 < KEPT_UP_MS


async def _bench_idle(it: Rig, *, clients: int, baseline_clients: int) -> None:
    """What a client costs that is told nothing: the product's is authenticated and its turn's row looked after."""
    rows = []
    for target in it.targets:
        turns = it.turns[: clients if target is it.product else baseline_clients]
        await it.producer.ask("reset", turns=turns, events=1)
        # What the first clients bring in stays for the later ones.
        await it.clients.ask("open", port=target.port, requests=target.requests(turns[:100]))
        await it.clients.ask("close")
        await asyncio.sleep(IDLE_SETTLE_SECS)
        before = target.rss_kb
        opened = await it.clients.ask("open", port=target.port, requests=target.requests(turns))
        await asyncio.sleep(IDLE_SETTLE_SECS)
        after, cpu = target.rss_kb, target.cpu_secs
        await asyncio.sleep(IDLE_SETTLE_SECS)
        rows.append(
            {
                "server": target.name,
                "idle clients": len(turns),
                "kB each": round((after - before) / len(turns), 1),
                "opened in s": round(opened["secs"], 1),
                "CPU % then": round((target.cpu_secs - cpu) / IDLE_SETTLE_SECS * 100, 1),
                "Redis connections": it.connections_of(target),
            }
        )
        await it.clients.ask("close")
    report("relay_idle", "Idle clients on one process", rows)


async def _bench_storm(it: Rig, *, repeats: int) -> None:
    """Clients that all come back at once, each to the whole of a log."""
    turns = it.turns[:STORM_CLIENTS]
    found: dict[str, list[float]] = defaultdict(list)
    await it.producer.ask("reset", turns=turns, events=STORM_EVENTS)
    for _ in range(repeats):
        for target in it.targets:
            began = time.perf_counter()
            await it.clients.ask("open", port=target.port, requests=target.requests(turns))
            await it.clients.ask("until", events=STORM_EVENTS)
            found[target.name].append((time.perf_counter() - began) * 1000)
            await it.clients.ask("close")
    report(
        "relay_storm",
        f"{STORM_CLIENTS} clients at once, {STORM_EVENTS} events behind",
        [{"server": name, "all have caught up, ms": Repeats(tuple(values))} for name, values in found.items()],
    )


async def _bench_slow_reader(it: Rig, *, secs: float) -> None:
    """One client stops reading a long log: what the others, and the process, notice of it."""
    rows = []
    for target in it.targets:
        alone = await _run(it, target, SLOW_STREAMS, secs=secs)
        turns = it.turns[:SLOW_STREAMS]
        await it.producer.ask("reset", turns=turns, events=0)
        await it.producer.ask("fill", events=SLOW_EVENTS)
        before = target.rss_kb
        await it.clients.ask("open", port=target.port, requests=target.requests(turns), slow=1)
        await it.producer.ask("start", rate=RATE)
        await asyncio.sleep(1.0)
        begin = time.time_ns()
        await asyncio.sleep(secs)
        seen = await it.clients.ask("window", begin=begin, end=time.time_ns())
        rows.append(
            {
                "server": target.name,
                "p99 ms without": round(alone.p99, 1),
                "p99 ms of the others": round(seen["p99"], 1),
                "process grew by kB": round(target.rss_kb - before),
            }
        )
        await it.producer.ask("stop")
        await it.clients.ask("close")
    report("relay_slow_reader", f"One of {SLOW_STREAMS} clients does not read the {SLOW_EVENTS} events before it", rows)

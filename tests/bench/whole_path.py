"""How long a turn takes through all processes, at a steady rate of new turns, and what it asks of the servers.

Latencies are between clocks of one machine: from the client's POST to its `stream_started` and to the request at the
provider, and from the provider's first delta on its socket to the client that reads it. Statements and commands are
counted on the wire, less what idle processes send in the same time.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any
from urllib.parse import urlsplit

from tests.bench.measure import Repeats, percentile, report
from tests.bench.relay_targets import Helper
from tests.bench.stage import Stage, cpu_secs, script, stage

TOKENS = 30
TOKENS_PER_SECOND = 30
RATES = ((1, 10), (20, 8), (50, 6))
"""New turns a second, and for how many seconds."""
WARM_UP_TURNS = 30
COUNTED_TURNS = 40

_MEANINGS = {
    "delta": "provider's first delta written → client has it",
    "asked": "POST sent → provider request received",
    "started": "POST sent → stream_started at the client",
}


async def bench(*, repeats: int, quick: bool) -> None:
    await _bench_latency(repeats=repeats, seconds=0.5 if quick else 1.0)
    await _bench_counts()


async def _bench_latency(*, repeats: int, seconds: float) -> None:
    found: dict[tuple[int, str], list[dict[str, float]]] = {}
    costs: dict[int, list[dict[str, float]]] = {}
    async with stage(apis=1, workers=1) as it:
        await _measure(it, rate=20, count=WARM_UP_TURNS)
        for _ in range(repeats):
            for rate, length in RATES:
                sample, cost = await _measure(it, rate=rate, count=max(5, round(rate * length * seconds)))
                costs.setdefault(rate, []).append(cost)
                for name in _MEANINGS:
                    found.setdefault((rate, name), []).append(
                        {"p50": percentile(sample[name], 50), "p99": percentile(sample[name], 99)}
                    )
    report(
        "whole_path",
        f"Whole path, 1 API and 1 worker, {TOKENS} deltas a turn: median (range) of {repeats} repeats",
        [
            {
                "turns/s": rate,
                "latency": _MEANINGS[name],
                "p50 ms": Repeats(tuple(sample["p50"] for sample in samples)),
                "p99 ms": Repeats(tuple(sample["p99"] for sample in samples)),
            }
            for (rate, name), samples in found.items()
        ],
    )
    report(
        "whole_path_cpu",
        "CPU of a turn, all of it included",
        [
            {"turns/s": rate}
            | {f"{name} ms": Repeats(tuple(sample[name] for sample in samples)) for name in samples[0]}
            for rate, samples in costs.items()
        ],
    )


async def _measure(it: Stage, *, rate: int, count: int) -> tuple[dict[str, Any], dict[str, float]]:
    chats = await it.make_chats(count)
    processes = {"API": it.product.apis[0], "worker": it.product.workers[0], "provider": it.product.provider}
    before = {name: cpu_secs(process) for name, process in processes.items()}
    sample = await it.run_turns(chats, content=script(tokens=TOKENS, rate=TOKENS_PER_SECOND), rate=rate)
    cost = {name: (cpu_secs(process) - before[name]) / count * 1000 for name, process in processes.items()}
    return sample, cost | {"load client": sample["client_cpu_secs"] / count * 1000}


async def _bench_counts() -> None:
    """Each process reaches its servers through a proxy that counts."""
    proxy = Helper("tests.bench.counting_proxy")
    try:
        async with stage(apis=0, workers=0) as it:
            for process in ("API", "worker"):
                variables = {}
                for kind, url in (("postgres", it.engines.database_url), ("valkey", it.engines.redis_url)):
                    name = f"{process} {kind}"
                    listening = await proxy.ask("listen", name=name, kind=kind, port=urlsplit(url).port)
                    variable = "DATABASE__URL" if kind == "postgres" else "REDIS__URL"
                    variables[variable] = url.replace(f":{urlsplit(url).port}", f":{listening['port']}")
                if process == "API":
                    it.product.start_api(**variables)
                else:
                    it.product.start_worker(**variables)
            await _run_counted(it, proxy)
            with_turns, seconds = await _run_counted(it, proxy)
            before = await proxy.ask("counts")
            await asyncio.sleep(seconds)
            idle = _difference(before, await proxy.ask("counts"))
    finally:
        proxy.stop()
    rows = []
    for name, counts in with_turns.items():
        ours = {key: max(0.0, (value - idle[name][key]) / COUNTED_TURNS) for key, value in counts.items()}
        process, kind = name.split()
        if kind == "postgres":
            told = f"{ours['statements']:.1f} statements in {ours['round trips']:.1f} round trips"
        else:
            told = ", ".join(f"{value:.1f} {key}" for key, value in sorted(ours.items()) if value >= 0.05)
        idle_rate = sum(value for key, value in idle[name].items() if key != "statements") / seconds
        rows.append({"process": process, "server": kind, "per turn": told, "idle, per second": round(idle_rate, 1)})
    report("counts", f"What a turn of {TOKENS} deltas asks of the servers", rows)


async def _run_counted(it: Stage, proxy: Helper) -> tuple[dict[str, Counter[str]], float]:
    chats = await it.make_chats(COUNTED_TURNS)
    before, began = await proxy.ask("counts"), time.monotonic()
    await it.run_turns(chats, content=script(tokens=TOKENS, rate=TOKENS_PER_SECOND), rate=10)
    return _difference(before, await proxy.ask("counts")), time.monotonic() - began


def _difference(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Counter[str]]:
    return {name: Counter(after[name]) - Counter(before[name]) for name in after}

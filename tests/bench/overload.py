"""What becomes of three times as many turns as the workers can take, and of a worker that comes and goes meanwhile.

A turn is one second of text and a worker takes `MAX_JOBS` at a time, so that its capacity is that many turns a second.
What is beyond it waits, up to `limits.max_queued_turns`; the rest is to be refused, soon, and to cost running turns
nothing.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

from tests.bench.measure import percentile, report
from tests.bench.relay_targets import Helper
from tests.bench.stage import Stage, script, stage
from tests.support.api import BASE

MAX_JOBS = 10
TOKENS = 20
RATE_BELOW, RATE_ABOVE = 8, 30
PHASE_SECS, QUICK_PHASE_SECS = 15.0, 5.0
REFUSED = 503


@dataclass(frozen=True)
class Phase:
    """A part of the run, long enough after what began it that its effect is there."""

    name: str
    begins: float
    ends: float

    def row(self, turns: list[dict[str, Any]]) -> dict[str, Any]:
        sent = [turn for turn in turns if self.begins <= turn["sent"] < self.ends]
        refused = [turn for turn in sent if turn["status"] == REFUSED]
        accepted = [turn for turn in sent if turn["status"] != REFUSED]
        ended = [turn for turn in turns if turn["is_done"] and self.begins <= turn["ended"] < self.ends]
        lags = [lag for turn in accepted for lag in turn["lags_ms"]]
        answers = [turn["answered_ms"] for turn in refused]
        seconds = self.ends - self.begins
        return {
            "phase": self.name,
            "offered/s": round(len(sent) / seconds, 1),
            "finished/s": round(len(ended) / seconds, 1),
            "refused/s": round(len(refused) / seconds, 1),
            "refusal ms p50 / p99 / max": _told(answers, 50, 99, 100),
            "delta ms p50 / p99": _told(lags, 50, 99),
            "accepted, not finished": sum(not turn["is_done"] for turn in accepted),
            "restarts": sum(turn["restarts"] for turn in accepted),
        }


async def bench(*, repeats: int, quick: bool) -> None:
    length = QUICK_PHASE_SECS if quick else PHASE_SECS
    for _ in range(repeats):
        async with stage(
            apis=1,
            workers=1,
            WORKER__MAX_JOBS=str(MAX_JOBS),
            WORKER__DRAIN_SECS="10",
            LIMITS__MAX_QUEUED_TURNS=str(MAX_JOBS),
        ) as it:
            client = Helper("tests.bench.overload_client")
            try:
                await _run(it, client, length)
            finally:
                client.stop()


async def _run(it: Stage, client: Helper, length: float) -> None:
    await _offer(it, client, rate=RATE_BELOW, seconds=2.0)  # warm up
    begun = time.time()
    calm = await _offer(it, client, rate=RATE_BELOW, seconds=length)
    quiet = Phase("below the capacity of 1 worker", begun, begun + length)

    # A worker takes a few seconds to start and to go; what happens in them belongs to no phase.
    offering = asyncio.ensure_future(_offer(it, client, rate=RATE_ABOVE, seconds=3 * length + 25))
    alone = await _phase("3 times the capacity of 1 worker", length, after=2.0)
    second = await asyncio.to_thread(it.product.start_worker)
    both = await _phase("the same, with a second worker", length, after=2.0)
    second.terminate()
    left = await _phase("the same, the second one gone (SIGTERM)", length, after=2.0)
    turns = (await offering)["turns"]

    report(
        "overload",
        f"Turns of 1 s, {MAX_JOBS} at a time per worker, {MAX_JOBS} may wait",
        [quiet.row(calm["turns"]), *(phase.row(turns) for phase in (alone, both, left))],
    )
    codes = sorted({f"{turn['status']} {turn['code'] or ''}".strip() for turn in turns})
    lost = [turn for turn in turns if turn["status"] == 200 and not turn["is_done"]]
    print(f"answers: {', '.join(codes)}; accepted turns that did not finish: {len(lost)}")


async def _phase(name: str, length: float, *, after: float) -> Phase:
    await asyncio.sleep(after)
    begins = time.time()
    await asyncio.sleep(length)
    return Phase(name, begins, begins + length)


async def _offer(it: Stage, client: Helper, *, rate: float, seconds: float) -> dict[str, Any]:
    chats = await it.make_chats(round(rate * seconds))
    paths = [f"{BASE}/chats/{chat_id}/messages:stream" for chat_id in chats]
    content = script(tokens=TOKENS, rate=TOKENS)
    port = it.product.apis[0].port
    return await client.ask("offer", port=port, headers=it.headers, paths=paths, content=content, rate=rate)


def _told(values: list[float], *percents: float) -> str:
    return " / ".join(f"{percentile(values, percent):.1f}" for percent in percents) if values else "-"

"""A long conversation: what the model is told, and how long that takes to put together, turn by turn.

Both must be flat: a chat of 500 turns costs a turn no more than one of 50. On real PostgreSQL, without sockets to a
provider; the plot shows the first repeat.
"""

from __future__ import annotations

import asyncio
import logging
import statistics
from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.figure import Figure

from shared.db.engine import open_database
from shared.db.migrate import migrate
from shared.settings import DatabaseSettings, Settings
from tests.bench.measure import PLOTS, Repeats, percentile, report
from tests.support.engines import TestEngines
from tests.support.long_conversation import MAX_INPUT, MAX_OUTPUT, WINDOW, LongConversation, TurnRecord

mpl.use("Agg")

PLOT = PLOTS / "conversation.png"
TURNS, QUICK_TURNS = 500, 100
AVAILABLE = min(WINDOW - MAX_OUTPUT - 50, MAX_INPUT)
SPANS = ((0, 0.1), (0.1, 0.5), (0.5, 0.9), (0.9, 1))
"""Parts of the conversation that are compared with each other."""


async def bench(*, repeats: int, quick: bool) -> None:
    # Its turns have taken no reserve, and each end says so.
    logging.getLogger("shared.turns.finalize").setLevel(logging.CRITICAL)
    runs = await _measure(repeats=repeats, turns=QUICK_TURNS if quick else TURNS)
    turns = len(runs[0])
    rows = []
    for begin, end in SPANS:
        part = slice(int(begin * turns), int(end * turns))
        tokens = [statistics.mean(record.planned.use.assembled_tokens for record in run[part]) for run in runs]
        millis = [[record.assembly_secs * 1000 for record in run[part]] for run in runs]
        rows.append(
            {
                "turns": f"{part.start + 1} to {part.stop}",
                "input tokens, mean": Repeats(tuple(tokens)),
                "assembly p50 ms": Repeats(tuple(percentile(values, 50) for values in millis)),
                "assembly p99 ms": Repeats(tuple(percentile(values, 99) for values in millis)),
                "summaries asked for": sum(record.is_summary_asked_for for record in runs[0][part]),
            }
        )
    report("conversation", f"One conversation of {turns} turns: median (range) of {repeats} repeats", rows)
    if not quick:
        _plot(runs[0])


async def _measure(*, repeats: int, turns: int) -> list[list[TurnRecord]]:
    with TestEngines() as engines:
        settings = DatabaseSettings.model_validate({"url": engines.database_url, "pool_size": 5})
        await asyncio.to_thread(migrate, Settings(database=settings))
        async with open_database(settings) as (_, sessions):
            return [await _converse(await LongConversation.begin(sessions), turns) for _ in range(repeats)]


async def _converse(conversation: LongConversation, turns: int) -> list[TurnRecord]:
    return [record async for record in conversation.turns(turns)]


def _plot(records: Sequence[TurnRecord]) -> None:
    numbers = [record.number + 1 for record in records]
    asked = [record.number + 1 for record in records if record.is_summary_asked_for]
    figure = Figure(figsize=(8, 5), layout="constrained")
    tokens, millis = figure.subplots(2, 1, sharex=True)
    tokens.plot(numbers, [record.planned.use.assembled_tokens for record in records], linewidth=0.8)
    tokens.axhline(AVAILABLE, color="tab:red", linewidth=0.8, label="budget")
    tokens.plot(asked, [0] * len(asked), "|", color="tab:green", label="summary asked for")
    tokens.set_ylabel("input tokens (estimate)")
    tokens.set_ylim(bottom=-400)
    tokens.legend(loc="lower right", fontsize="small")
    millis.plot(numbers, [record.assembly_secs * 1000 for record in records], linewidth=0.8)
    millis.set_ylabel("assembly, ms")
    millis.set_ylim(bottom=0)
    millis.set_xlabel("turn")
    PLOT.parent.mkdir(exist_ok=True)
    figure.savefig(PLOT, dpi=65)

"""Counts the tool calls of one attempt: against the limits of a turn when they start, for its price when they end.

The call that exceeds a limit is not shown; the provider's connection is closed and the turn fails. Completed calls are
noted in the turn's row while the answer goes on: never between a delta and its publication, and before the turn is
settled, which reads the row.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from sqlalchemy import bindparam, update

from shared.backoff import backoff
from shared.db.engine import Sessions, is_database_away
from shared.events.frames import ToolName
from shared.metrics import Metrics
from shared.settings import QuotaSettings
from shared.turns.tables import Turn
from worker.turns.held import HeldTurn

logger = logging.getLogger(__name__)

EXCEEDED_CODES: Final[Mapping[ToolName, str]] = {
    "web_search": "web_search_calls_exceeded",
    "code_interpreter": "code_interpreter_calls_exceeded",
}

_NOTE_COUNTS = (
    update(Turn)
    .where(Turn.id == bindparam("turn"), Turn.state == "running", Turn.attempt == bindparam("mine"))
    .values(
        web_search_completed_count=bindparam("web_searches"),
        code_interpreter_completed_count=bindparam("code_runs"),
    )
    .execution_options(synchronize_session=False)
)


class ToolCounter:
    """Pure: what was started and completed, and which start is one too many."""

    def __init__(self, limits: Mapping[ToolName, int]) -> None:
        self._limits = limits
        self.started: Counter[ToolName] = Counter()
        self.completed: Counter[ToolName] = Counter()

    @classmethod
    def with_settings(cls, settings: QuotaSettings) -> ToolCounter:
        return cls(
            {
                "web_search": settings.web_search_max_calls_per_message,
                "code_interpreter": settings.code_interpreter_max_calls_per_message,
            }
        )

    def start(self, name: ToolName) -> str | None:
        """Count a call; the error code of the turn if there may not be so many."""
        self.started[name] += 1
        limit = self._limits.get(name)
        return EXCEEDED_CODES[name] if limit is not None and self.started[name] > limit else None

    def complete(self, name: ToolName) -> None:
        self.completed[name] += 1


@dataclass(frozen=True, slots=True)
class _Noted:
    web_searches: int = 0
    code_runs: int = 0


class ToolCalls:
    """The counter of an attempt with its metrics, and the row behind it.

    `start` and `complete` do no I/O. `note` runs beside the stream for as long as that lasts; `settle` comes before the
    turn is finalized.
    """

    def __init__(
        self, held: HeldTurn, *, counter: ToolCounter, sessions: Sessions, metrics: Metrics, provider: str, model: str
    ) -> None:
        self._held = held
        self._counter = counter
        self._sessions = sessions
        self._metrics = metrics
        self._provider = provider
        self._model = model
        self._started_at: dict[ToolName, list[float]] = {}
        self._noted = _Noted()
        self._has_news = asyncio.Event()

    @property
    def file_searches(self) -> int:
        """Completed so far."""
        return self._counter.completed["file_search"]

    def start(self, name: ToolName) -> str | None:
        """A call begins: None if it may, else the code that the turn fails with; then it is not shown."""
        exceeded = self._counter.start(name)
        if exceeded is not None:
            self._metrics.tool_call_limited.labels(tool=name).inc()
            return exceeded
        self._metrics.tool_calls.labels(tool=name, phase="start").inc()
        self._started_at.setdefault(name, []).append(time.monotonic())
        return None

    def complete(self, name: ToolName, details: Mapping[str, Any]) -> None:
        self._counter.complete(name)
        self._metrics.tool_calls.labels(tool=name, phase="done").inc()
        self._observe(name, details)
        if name != "file_search":
            self._has_news.set()

    async def note(self) -> None:
        """Bring the row up to date each time a call completes, until cancelled."""
        while True:
            await self._has_news.wait()
            self._has_news.clear()
            await self.settle()

    async def settle(self) -> None:
        """The row says what was completed; waits for the database for as long as the attempt stands."""
        for delay in backoff(first=0.1, longest=2.0):
            counts = _Noted(self._counter.completed["web_search"], self._counter.completed["code_interpreter"])
            if counts == self._noted or self._held.is_superseded:
                return
            try:
                await self._write(self._held.turn.id, counts)
            except Exception as error:
                if not is_database_away(error):
                    raise
                logger.warning("tool calls cannot be noted, will try again: %r", error)
                await asyncio.sleep(delay)
                continue
            self._noted = counts
            return

    async def _write(self, turn_id: UUID, counts: _Noted) -> None:
        async with self._held.lock, self._sessions.begin() as session:  # the attempt's number does not change meanwhile
            await session.execute(
                _NOTE_COUNTS,
                {
                    "turn": turn_id,
                    "mine": self._held.attempt,
                    "web_searches": counts.web_searches,
                    "code_runs": counts.code_runs,
                },
            )

    def _observe(self, name: ToolName, details: Mapping[str, Any]) -> None:
        by_model = {"provider": self._provider, "model": self._model}
        begun = self._started_at.get(name)
        elapsed_ms = (time.monotonic() - begun.pop(0)) * 1000 if begun else None
        if name == "code_interpreter":
            self._metrics.code_interpreter_calls.labels(model=self._model).inc()
        elif name == "web_search" and elapsed_ms is not None:
            self._metrics.web_search_latency_ms.labels(**by_model).observe(elapsed_ms)
        elif name == "file_search":
            found = int(details.get("files_searched", 0))
            self._metrics.retrieval_chunks_returned.observe(found)
            if found == 0:
                self._metrics.retrieval_zero_hit.inc()
            if elapsed_ms is not None:
                self._metrics.file_search_latency_ms.labels(**by_model).observe(elapsed_ms)
                self._metrics.retrieval_latency_ms.labels(provider=self._provider).observe(elapsed_ms)

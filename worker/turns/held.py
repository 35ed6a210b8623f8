"""An attempt that this worker holds: its number, which can grow, and the wish of others that it stop."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from enum import StrEnum

from shared.summaries.trigger import SummaryWish
from shared.turns.lifecycle import CancelTrigger
from shared.turns.tables import Turn
from shared.valkey.keyspace import TurnKeys


class StopKind(StrEnum):
    SUPERSEDED = "superseded"
    """Somebody else holds, or has ended, the turn: write nothing more, anywhere."""
    CANCELLED = "cancelled"
    """End the turn with the text so far."""
    HAND_BACK = "hand_back"
    """Give the turn up for another worker."""


@dataclass(frozen=True, slots=True)
class Stop:
    kind: StopKind
    trigger: CancelTrigger = "internal"
    """Of a cancelled turn: why, unless its row says so already."""


@dataclass(frozen=True, slots=True)
class Abort:
    """How promptly a provider's stream was broken off: the time, and the deltas that still came in."""

    elapsed_ms: float
    deltas: int


class HeldTurn:
    """One attempt between its claim and its end.

    `lock` is held while the attempt's number is raised in the row or the turn is finalized: the two must not meet, and
    a lease renewal that misses the row meanwhile means nothing.
    """

    def __init__(self, turn: Turn) -> None:
        self.turn = turn
        self.keys = TurnKeys(turn.chat_id, turn.request_id)
        self.attempt = turn.attempt
        self.lock = asyncio.Lock()
        self.is_finalized = False
        self.is_progressing = False
        """The provider's connection is open, or the finalization is being tried again."""
        self.requested_stop: Stop | None = None
        self.summary_wish: SummaryWish | None = None
        self.deltas: list[str] = []
        """The text of the answer so far, as the provider sent it."""
        self.abort: Abort | None = None
        self._stop_heard: tuple[float, int] | None = None
        self._stopping = asyncio.Event()

    def stop(self, stop: Stop) -> None:
        """Ask the attempt to stop; the first reason counts, except that being superseded overrules the others."""
        if self.requested_stop is None or stop.kind is StopKind.SUPERSEDED:
            self.requested_stop = stop
            self._stop_heard = self._stop_heard or (time.monotonic(), len(self.deltas))
            self._stopping.set()

    def note_abort(self) -> None:
        """The provider's connection has been closed because of the stop."""
        if self._stop_heard is not None:
            heard_at, deltas = self._stop_heard
            self.abort = Abort((time.monotonic() - heard_at) * 1000, len(self.deltas) - deltas)

    @property
    def is_superseded(self) -> bool:
        return self.requested_stop is not None and self.requested_stop.kind is StopKind.SUPERSEDED

    async def wait_for_stop(self) -> None:
        """Return as soon as the attempt has been asked to stop; `requested_stop` says why."""
        await self._stopping.wait()

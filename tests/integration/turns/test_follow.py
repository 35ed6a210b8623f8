"""The one who looks after silent streams: what their rows say, and the clock that wakes them."""

from __future__ import annotations

from uuid import UUID

import pytest

from api.turns import follow
from api.turns.follow import TurnFollower
from shared.clock import SystemClock
from shared.db.engine import Sessions
from shared.ids import new_uuid4
from shared.tasks import BackgroundTasks
from tests.support.turn_rows import insert_turn
from tests.support.waiting import wait_until


class Stream:
    """A silent stream that notes what it is told."""

    def __init__(self, turn_id: UUID) -> None:
        self.turn_id = turn_id
        self.told: list[bool] = []
        self.ticks: list[float] = []

    def is_silent(self, now: float) -> bool:
        return now >= 0

    def on_tick(self, now: float) -> None:
        self.ticks.append(now)

    def on_row(self, *, is_terminal: bool) -> None:
        self.told.append(is_terminal)

    def close(self) -> None: ...


async def test_silent_streams_are_woken_and_told_of_their_rows(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "INTERVAL_SECS", 0.01)
    monkeypatch.setattr(follow, "TICK_SECS", 0.01)
    running = await insert_turn(sessions)
    failed = await insert_turn(sessions, state="failed", error_code="provider_error", completed_at=SystemClock().now())
    streams = [Stream(turn_id) for turn_id in (running.id, running.id, failed.id, new_uuid4())]
    follower = TurnFollower(sessions)
    for stream in streams:
        follower.add(stream)
    background = BackgroundTasks()
    background.spawn(follower.run(), name="follower")
    try:
        await wait_until(lambda: all(stream.told and stream.ticks for stream in streams))
    finally:
        await background.aclose()
    assert [set(stream.told) for stream in streams] == [{False}, {False}, {True}, {True}]

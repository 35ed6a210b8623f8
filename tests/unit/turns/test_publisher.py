"""What an attempt writes to its log, against a log that can be slow, lose an answer or be away."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from shared.events import frames
from shared.events.frames import Frame, delta_text
from shared.events.ids import EntryId
from shared.events.log import Appended, EventLog
from shared.ids import new_uuid4
from shared.metrics import Metrics
from shared.settings import Settings
from shared.turns.tables import Turn
from tests.support.waiting import wait_until
from worker.turns import publisher as module
from worker.turns.held import HeldTurn, StopKind
from worker.turns.publisher import Publisher

DONE = frames.done(usage=None, effective_model="m", selected_model="m", quota_decision="allow")
CANCELLED = frames.error("cancelled", "…")


@dataclass
class FakeLog:
    """Takes what it is given once the gate is open."""

    entries: list[tuple[str, Frame]] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    is_away: bool = False
    answer: Appended = Appended.TAKEN

    async def append(
        self, _keys: object, frame: Frame, *, entry_id: EntryId, after: EntryId, is_stoppable: bool
    ) -> Appended:
        if self.is_away:
            raise RedisConnectionError
        await self.gate.wait()
        assert entry_id == after.next
        if self.answer is Appended.CANCELLED and not is_stoppable:
            self.entries.append((str(entry_id), frame))
            return Appended.TAKEN
        if self.answer.is_success:
            self.entries.append((str(entry_id), frame))
        return self.answer

    @property
    def text(self) -> str:
        return "".join(delta_text(frame.body) for _, frame in self.entries if frame.event == "delta")


@pytest.fixture
def log() -> FakeLog:
    return FakeLog()


@pytest.fixture
def held() -> HeldTurn:
    ids = {"id": new_uuid4(), "chat_id": new_uuid4(), "request_id": new_uuid4()}
    return HeldTurn(cast("Turn", SimpleNamespace(**ids, attempt=1, lease_owner="w")))


@pytest.fixture
def publisher(log: FakeLog, held: HeldTurn) -> Publisher:
    return Publisher(
        held,
        log=cast("EventLog", log),
        sessions=cast("Any", None),
        settings=Settings(),
        metrics=Metrics("test"),
        started=frames.stream_started(request_id=new_uuid4(), message_id=new_uuid4(), is_new_turn=True),
    )


async def test_what_arrives_during_an_append_goes_out_as_one(log: FakeLog, publisher: Publisher) -> None:
    """The first delta goes at once; those that come while it is under way share the next entry."""
    async with publisher:
        publisher.begin()
        publisher.delta("a")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for part in "bcd":
            publisher.delta(part)
        log.gate.set()
        await wait_until(lambda: publisher.taken_text == "abcd")
    assert [(entry_id, delta_text(frame.body)) for entry_id, frame in log.entries] == [("1-1", "a"), ("1-2", "bcd")]


async def test_an_entry_takes_no_more_than_its_share(log: FakeLog, publisher: Publisher) -> None:
    log.gate.set()
    async with publisher:
        publisher.begin()
        for _ in range(300):
            publisher.delta("x" * 100)
        await wait_until(lambda: len(publisher.taken_text) == 30_000)
    assert all(len(delta_text(frame.body)) <= module.MERGE_BYTES for _, frame in log.entries)


async def test_the_end_brings_what_the_log_still_lacks(log: FakeLog, publisher: Publisher) -> None:
    """Tool events and text that were not yet taken precede the end, so that stream and storage agree."""
    async with publisher:
        publisher.begin()
        publisher.delta("Hello ")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        publisher.tool("start", "web_search", {})
        publisher.delta("world")
        asyncio.get_running_loop().call_later(0.01, log.gate.set)
        await publisher.finish([DONE])
    assert [frame.event for _, frame in log.entries] == ["delta", "tool", "delta", "done"]
    assert log.text == publisher.text == "Hello world"


async def test_a_stopped_turn_stores_what_the_log_has(log: FakeLog, held: HeldTurn, publisher: Publisher) -> None:
    """The log refuses further content; the end is taken all the same."""
    log.gate.set()
    async with publisher:
        publisher.begin()
        publisher.delta("shown")
        await wait_until(lambda: publisher.taken_text == "shown")
        log.answer = Appended.CANCELLED
        publisher.delta(" not shown")
        await held.wait_for_stop()
        assert held.requested_stop is not None
        assert held.requested_stop.kind is StopKind.CANCELLED
        assert await publisher.settle()
        assert publisher.taken_text == "shown"
        await publisher.finish([CANCELLED])
    assert [frame.event for _, frame in log.entries] == ["delta", "error"]


async def test_nothing_is_offered_after_an_append_without_an_answer(
    log: FakeLog, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knows whether the log has the entry: the end under its id could pass for it. Relays go to storage."""
    monkeypatch.setattr(module, "SETTLE_TIMEOUT_SECS", 0.02)
    async with publisher:
        publisher.begin()
        publisher.delta("adrift")
        await asyncio.sleep(0)
        assert not await publisher.settle()
        log.gate.set()
        await publisher.finish([CANCELLED])
        await publisher.finish([DONE])
    assert log.entries == []


async def test_an_outage_is_sat_out(log: FakeLog, publisher: Publisher) -> None:
    """The provider's reader is not held up; once the log is back it gets everything, in order."""
    log.gate.set()
    log.is_away = True
    async with publisher:
        publisher.begin()
        for index in range(50):
            publisher.delta(f"<{index}>")
            await asyncio.sleep(0)
        log.is_away = False
        await wait_until(lambda: publisher.taken_text == publisher.text)
    assert log.text == "".join(f"<{index}>" for index in range(50))


async def test_a_superseded_writer_stops(log: FakeLog, held: HeldTurn, publisher: Publisher) -> None:
    log.gate.set()
    log.answer = Appended.SUPERSEDED
    async with publisher:
        publisher.begin()
        publisher.delta("late")
        await held.wait_for_stop()
    assert held.is_superseded
    assert log.entries == []

"""Relays of two replicas behind one Valkey, driven without HTTP: a client is a function that collects what is sent."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

from starlette.types import Message

from api.context import ApiContext
from api.turns.follow import TurnFollower
from api.turns.live import LiveFeed
from api.turns.relay import EventStreamResponse
from shared.db.engine import Sessions
from shared.events import frames
from shared.events.frames import Frame
from shared.events.ids import EntryId, opening, parse_cursor
from shared.events.log import EventLog
from shared.ids import new_uuid4
from shared.metrics import Metrics
from shared.settings import RedisSettings, Settings
from shared.tasks import BackgroundTasks
from shared.valkey.client import Valkey, open_valkey
from shared.valkey.keyspace import TurnKeys
from shared.valkey.scripts import run_scripts
from tests.support.sse import Event, SseParser


class LossyFeed(LiveFeed):
    """A live feed that loses announcements, except those of the end, on which nothing follows that could tell."""

    def __init__(self, *args: Any, loss: float, randomness: random.Random, **options: Any) -> None:
        super().__init__(*args, **options)
        self._loss = loss
        self._random = randomness

    def _dispatch(self, message: Any) -> None:
        is_end = message[0] == b"message" and b"\nevent: done\n" in message[2][:200]
        if message[0] == b"message" and not is_end and self._random.random() < self._loss:
            return
        super()._dispatch(message)


@dataclass
class Replica:
    """What a relay needs of an API process. Rows are never asked for: turns do not stay silent here."""

    context: ApiContext
    live: LiveFeed


@dataclass
class Client:
    """One reader of a turn, at home on no replica. Comes back with its cursor until it has seen the end."""

    keys: TurnKeys
    turn_id: UUID = field(default_factory=new_uuid4)
    events: list[Event] = field(default_factory=list)
    unblocked: asyncio.Event | None = None
    """If given, the client's socket takes nothing before it is set."""

    @property
    def has_ended(self) -> bool:
        return bool(self.events) and self.events[-1].is_terminal

    async def read(self, replica: Replica, *, leave_after: int | None = None, cursor: str | None = None) -> None:
        """Attach and read to the end, or leave as soon as `leave_after` events have come."""
        if cursor is None and self.events:
            cursor = self.events[-1].id
        parsed = parse_cursor(cursor)
        assert parsed is None or isinstance(parsed, EntryId)
        response = EventStreamResponse(replica.context, turn_id=self.turn_id, keys=self.keys, cursor=parsed)
        parser = SseParser()
        left = asyncio.Event()
        received = 0

        async def send(message: Message) -> None:
            nonlocal received
            await asyncio.sleep(0)
            if self.unblocked is not None:
                await self.unblocked.wait()
            for event in parser.feed(message.get("body", b"").decode()):
                if left.is_set():
                    return  # what arrives after the client has gone is lost
                self.events.append(event)
                received += 1
                if received == leave_after:
                    left.set()

        async def receive() -> Message:
            await left.wait()
            return {"type": "http.disconnect"}

        await response({"type": "http"}, receive, send)


@dataclass
class Producer:
    """Writes a turn's log as its workers do."""

    log: EventLog
    valkey: Valkey
    keys: TurnKeys
    texts: list[str] = field(default_factory=list)
    last: EntryId = field(default_factory=lambda: opening(0))

    async def start(self) -> None:
        await run_scripts(self.valkey, [self.log.opening(self.keys, self._started)])

    @property
    def _started(self) -> Frame:
        return frames.stream_started(request_id=self.keys.request_id, message_id=self.keys.request_id, is_new_turn=True)

    async def open_attempt(self, attempt: int) -> None:
        restart = frames.restart(attempt=attempt, reason="worker_lost")
        opened = await self.log.open_attempt(
            self.keys, attempt=attempt, started=self._started, restart=restart, refuse_restart=False
        )
        assert opened.outcome.is_success
        self.texts.clear()
        self.last = opening(attempt)

    async def append(self, frame: Frame) -> None:
        outcome = await self.log.append(self.keys, frame, entry_id=self.last.next, after=self.last)
        assert outcome.is_success, outcome
        self.last = self.last.next

    async def delta(self, text: str) -> None:
        await self.append(frames.delta(text))
        self.texts.append(text)

    async def done(self) -> None:
        await self.append(frames.done(usage=None, effective_model="m", selected_model="m", quota_decision="allow"))

    @property
    def text(self) -> str:
        return "".join(self.texts)


@dataclass
class Stage:
    """A Valkey, two replicas and a turn."""

    replicas: list[Replica]
    producer: Producer

    def client(self) -> Client:
        return Client(self.producer.keys)


@asynccontextmanager
async def stage(
    valkey_url: str, *, is_fast: bool = True, loss: float = 0.0, seed: int = 0, capacity: int = 16
) -> AsyncIterator[Stage]:
    settings = Settings(streaming=cast("Any", {"sse_channel_capacity": capacity}))
    redis_settings = RedisSettings.model_validate({"url": valkey_url})
    randomness = random.Random(seed)
    async with AsyncExitStack() as stack:
        replicas = []
        for _ in range(2):
            valkey = await stack.enter_async_context(open_valkey(redis_settings))
            live = LossyFeed(valkey, capacity=capacity, is_fast=is_fast, loss=loss, randomness=randomness)
            background = BackgroundTasks()
            stack.push_async_callback(background.aclose)
            background.spawn(live.run(), name="live feed")
            context = SimpleNamespace(
                settings=settings,
                log=EventLog(valkey, settings),
                live=live,
                followers=TurnFollower(cast("Sessions", None)),
                metrics=Metrics("test"),
            )
            replicas.append(Replica(cast("ApiContext", context), live))
        valkey = await stack.enter_async_context(open_valkey(redis_settings))
        keys = TurnKeys(new_uuid4(), new_uuid4())
        yield Stage(replicas, Producer(EventLog(valkey, settings), valkey, keys))
        await valkey.delete(keys.events)

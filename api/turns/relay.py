"""Turns an event log into one client's SSE response.

A client is a cursor. It subscribes, reads the log from the cursor on, and then forwards announced entries for as long
as each follows the one before it; on any gap it reads the log again, from the cursor and including the cursor's own
entry. If that entry is missing, the server has lost it, and the client starts over with the whole log: its first frame,
`stream_started`, says so. Nothing is buffered for a slow client: it reads pages of the log at its own speed. Frames are
bytes all the way; nothing is parsed or encoded per event.

The end of a stream is a terminal frame, or a bare `retry:` when this process must let go: a terminal event is never
made up. A turn that has ended while its log cannot say so is told from storage.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from contextlib import suppress
from enum import StrEnum
from functools import partial
from typing import Required, TypedDict, Unpack
from uuid import UUID

from opentelemetry.trace import Span
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from api.context import ApiContext
from api.limits.places import Place
from api.middleware import conduct
from api.sse import SSE_HEADERS
from api.turns.follow import SILENCE_SECS
from api.turns.live import LiveEntry, Subscription
from api.turns.replay import load_replay
from shared.db.engine import is_database_away
from shared.events import frames
from shared.events.frames import KEEP_ALIVE, Frame
from shared.events.ids import STARTED, EntryId
from shared.events.log import Entry
from shared.logs import add_log_fields
from shared.trace import is_exporting, start_span
from shared.valkey.client import REDIS_FAILURE
from shared.valkey.keyspace import TurnKeys

logger = logging.getLogger(__name__)

PING_JITTER_SECS = 2.0
NO_END_GRACE_SECS = 1.0
"""How long a committed end may take to show up in the log."""
REDIS_RETRY_SECS = 1.0
GIVE_UP_SECS = 60.0
"""With neither Valkey nor PostgreSQL there is nothing to tell: after this long the client is sent elsewhere."""
RETRY_MS = (500, 3_000)
"""Clients of a replica that goes away must not all come back at once."""


class _LogState(StrEnum):
    CURRENT = "current"
    """Read to its newest entry."""
    MORE = "more"
    """The page was full: there is more to read."""
    MISSING = "missing"
    AWAY = "away"
    """Valkey does not answer."""
    ENDED = "ended"
    """The terminal entry has been sent."""


class StreamOptions(TypedDict, total=False):
    """Which stream."""

    turn_id: Required[UUID]
    keys: Required[TurnKeys]
    cursor: Required[EntryId | None]
    """The entry after which to go on; None: from the start."""
    has_ended: bool
    """The turn's row is known to be terminal."""
    first_frame: Frame | None
    """`stream_started`, if the caller has just created the log with it."""
    is_awaited: bool
    """The turn stops when its last client has left."""
    place: Place | None
    """What the stream takes of its user's limit."""


class EventStreamResponse(Response):
    """The stream of one client. What must be refused with a status has been refused before it is made."""

    def __init__(self, context: ApiContext, **options: Unpack[StreamOptions]) -> None:
        super().__init__(headers=SSE_HEADERS)
        # Starlette counts the body it has; this one has no length.
        del self.headers["content-length"]
        self._stream = EventStream(context, **options)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start: Message = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await conduct(scope, receive, send, partial(self._stream.run, start=start, start_with=send))


class EventStream:
    """One client's way through the log. There are thousands of these, most of them idle."""

    __slots__ = (
        "_context",
        "_cursor",
        "_first_event",
        "_first_frame",
        "_has_ended",
        "_has_left",
        "_in_content",
        "_is_awaited",
        "_is_away",
        "_is_closing",
        "_is_row_terminal",
        "_keys",
        "_last_sent",
        "_look_at",
        "_now",
        "_place",
        "_quiet_secs",
        "_row_terminal_since",
        "_send",
        "_shown_id",
        "_subscription",
        "turn_id",
    )

    def __init__(
        self,
        context: ApiContext,
        *,
        turn_id: UUID,
        keys: TurnKeys,
        cursor: EntryId | None,
        has_ended: bool = False,
        first_frame: Frame | None = None,
        is_awaited: bool = False,
        place: Place | None = None,
    ) -> None:
        self.turn_id = turn_id
        self._context = context
        self._keys = keys
        self._now = asyncio.get_running_loop().time
        self._cursor: bytes | None = None if cursor is None else str(cursor).encode()
        self._first_frame = first_frame
        self._first_event: Span | None = None
        # What a ping repeats: the client's own cursor until a frame was sent.
        self._shown_id: bytes | None = self._cursor
        self._in_content = cursor is not None and cursor != STARTED and cursor.seq != 0
        self._is_row_terminal = has_ended
        self._row_terminal_since = self._now() if has_ended else 0.0
        self._is_awaited = is_awaited
        self._place = place
        self._is_away = False
        self._is_closing = False
        self._has_left = False
        self._has_ended = False
        self._last_sent = 0.0
        self._quiet_secs = math.inf
        self._look_at = math.inf
        self._subscription: Subscription | None = None

    def is_silent(self, now: float) -> bool:
        return self._is_away or now - self._last_sent >= SILENCE_SECS

    def on_tick(self, now: float) -> None:
        if now >= self._look_at or now - self._last_sent >= self._quiet_secs:
            self._wake()

    def on_row(self, *, is_terminal: bool) -> None:
        if is_terminal and not self._is_row_terminal:
            self._is_row_terminal = True
            self._row_terminal_since = self._now()
            self._look_again()

    def close(self) -> None:
        """End the stream with `retry:`; the client comes back with its cursor, to another replica."""
        self._is_closing = True
        self._wake()

    async def run(self, receive: Receive, send: Send, *, start: Message, start_with: Send) -> None:
        """Serve the client until one of the two is done with the other.

        Args:
            start: the beginning of the response, which goes out through `start_with`.
        """
        self._send = send
        add_log_fields(processing_stage="relay")
        if is_exporting():
            self._first_event = start_span("first event")
        context = self._context
        context.metrics.active_streams.inc()
        context.metrics.attached_clients.inc()
        context.followers.add(self)
        if self._place is not None:
            self._place.hold()
        try:
            if self._is_awaited:
                await context.audience.enter(self._keys)
            self._subscription = context.live.subscribe(self._keys)
            await start_with(start)
            del start, start_with  # all that the framework has wrapped around it
            async with asyncio.TaskGroup() as tasks:
                watch = tasks.create_task(self._watch_client(receive), name="client watch")
                await self._relay(self._subscription)
                watch.cancel()
        finally:
            self._leave()

    def _leave(self) -> None:
        context = self._context
        if self._subscription is not None:
            context.live.unsubscribe(self._subscription)
        if self._is_awaited:
            has_hung_up = self._has_left and not self._has_ended
            context.audience.leave(self._keys, self.turn_id, has_hung_up=has_hung_up)
        context.followers.remove(self)
        if self._place is not None:
            self._place.give_back()
        context.metrics.active_streams.dec()
        context.metrics.attached_clients.dec()
        if self._has_left:
            self._count_departure()
        if self._first_event is not None:
            self._first_event.end()  # there was none

    async def _watch_client(self, receive: Receive) -> None:
        """Notice a closed connection without writing to it."""
        message: Message = {}
        while message.get("type") != "http.disconnect":
            message = await receive()
        self._has_left = True
        self._wake()

    async def _relay(self, subscription: Subscription) -> None:
        self._last_sent = self._now()
        self._quiet_secs = self._next_silence()
        if self._first_frame is not None:
            self._cursor = self._shown_id = str(STARTED).encode()
            await self._write(self._first_frame.with_id(STARTED))
            self._first_frame = None
        await self._context.live.confirm(subscription)
        state = _LogState.MORE
        while not (self._has_left or self._is_closing):
            if subscription.has_gap or state is not _LogState.CURRENT:
                subscription.begin_reading_log()
                state = await self._read_log()
                if state is _LogState.ENDED:
                    return await self._end()
                if state is _LogState.MORE:
                    continue
            if self._is_row_terminal and await self._is_told_from_storage(state):
                return await self._end()
            if self._is_away and self._has_nowhere_to_read():
                break
            self._look_at = self._patience(state)
            await subscription.wait()
            if not await self._forward(subscription.take()) or self._is_row_terminal:
                subscription.mark_gap()
            if self._has_ended:
                return await self._end()
            if self._now() - self._last_sent >= self._quiet_secs and not self._has_left:
                await self._fill_silence()
                # An announcement may have been lost without a trace: a silent stream looks for itself.
                subscription.mark_gap()
        if not self._has_left:
            await self._write(frames.retry(random.randint(*RETRY_MS)))  # noqa: S311 (jitter, not a secret)
            await self._end()
        return None

    async def _read_log(self) -> _LogState:
        """Send one page of the log from the cursor on."""
        page = self._context.settings.streaming.sse_channel_capacity
        start = self._cursor or b"-"
        try:
            entries = await self._context.log.read(self._keys, start=start, count=page + 1)
            self._is_away = False
        except REDIS_FAILURE as error:
            if not self._is_away:
                logger.warning("the log cannot be read: %r", error, extra={"turn_id": str(self.turn_id)})
            self._is_away = True
            return _LogState.AWAY
        is_full = len(entries) > page
        if self._cursor is not None:
            if not entries or entries[0].id != self._cursor:
                # The log never held, or has lost, what this client has: start over with what there is.
                self._cursor = None
                return _LogState.MORE
            del entries[0]
        elif not entries:
            return _LogState.MISSING
        await self._send_entries(entries)
        if self._has_ended:
            return _LogState.ENDED
        return _LogState.MORE if is_full else _LogState.CURRENT

    async def _forward(self, entries: list[LiveEntry]) -> bool:
        """Send announced entries for as long as each follows the cursor; False if one does not."""
        cursor = self._cursor or b""
        following: list[LiveEntry] = []
        for entry in entries:
            if entry.previous == cursor:
                following.append(entry)
                cursor = entry.id
            elif not cursor or _position(entry.id) > _position(cursor):
                await self._send_entries(following)
                return False
        await self._send_entries(following)
        return True

    async def _send_entries(self, entries: list[Entry] | list[LiveEntry]) -> None:
        """Write the frames of `entries` in one piece and move the cursor behind them."""
        if not entries:
            return
        chunks: list[bytes] = []
        for entry in entries:
            event = entry.event
            if event in (b"delta", b"tool"):
                self._in_content = True
            elif event == b"mark":
                continue
            elif event in (b"stream_started", b"restart"):
                self._in_content = False
            elif event in (b"done", b"error"):
                self._has_ended = True
            chunks += (b"id: ", entry.id, b"\n", entry.body)
            self._shown_id = entry.id
        self._cursor = entries[-1].id
        if chunks:
            await self._write(b"".join(chunks))
        if self._first_event is not None and self._in_content:
            self._first_event.end()
            self._first_event = None

    async def _is_told_from_storage(self, state: _LogState) -> bool:
        """Of a turn that has ended: whether its log does not say so, and it has now been told from its row."""
        if state is _LogState.CURRENT and self._now() - self._row_terminal_since < NO_END_GRACE_SECS:
            return False
        try:
            async with self._context.sessions() as session:
                replay = await load_replay(session, self.turn_id)
        except Exception as error:
            if not is_database_away(error):
                raise
            return False
        if replay is None:
            self._is_closing = True  # deleted meanwhile: the client learns it when it comes back
            return False
        self._context.metrics.stream_replay.labels(reason="attach").inc()
        await self._write(b"".join(replay.after(0)))
        self._has_ended = True
        return True

    def _has_nowhere_to_read(self) -> bool:
        return self._context.followers.database_away_secs(self._now()) >= GIVE_UP_SECS

    def _patience(self, state: _LogState) -> float:
        """When this stream must look around by itself, apart from filling a silence."""
        if state is _LogState.AWAY:
            return self._now() + REDIS_RETRY_SECS
        if self._is_row_terminal:
            return self._now() + NO_END_GRACE_SECS
        return math.inf

    async def _fill_silence(self) -> None:
        self._quiet_secs = self._next_silence()
        if self._in_content or self._shown_id is None:
            await self._write(KEEP_ALIVE)
        else:
            await self._write(frames.ping(self._shown_id.decode()))

    def _next_silence(self) -> float:
        """How long nothing may be sent from here on."""
        interval = self._context.settings.streaming.sse_ping_interval_seconds
        return interval + random.uniform(-PING_JITTER_SECS, PING_JITTER_SECS)  # noqa: S311 (jitter, not a secret)

    async def _write(self, chunk: bytes) -> None:
        with suppress(OSError):  # the client has left; the watch says so
            await self._send({"type": "http.response.body", "body": chunk, "more_body": True})
        self._last_sent = self._now()

    async def _end(self) -> None:
        with suppress(OSError):
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    def _count_departure(self) -> None:
        stage = "after_done" if self._has_ended else "mid_stream" if self._in_content else "before_first_token"
        self._context.metrics.stream_disconnected.labels(stage=stage).inc()

    def _wake(self) -> None:
        if self._subscription is not None:
            self._subscription.wake()

    def _look_again(self) -> None:
        if self._subscription is not None:
            self._subscription.mark_gap()


def _position(entry_id: bytes) -> tuple[int, int]:
    attempt, _, seq = entry_id.partition(b"-")
    return int(attempt), int(seq)


class ReplayResponse(Response):
    """Frames that are all known: written in one piece, and closed."""

    def __init__(self, chunks: list[bytes]) -> None:
        super().__init__(b"".join(chunks), headers=SSE_HEADERS)

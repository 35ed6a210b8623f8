"""One subscription connection for all streams of an API process.

Entries of event logs are announced on their turn's channel at the moment they are appended, each with the id of the
entry before it. This saves readers the read; it is never the truth: whatever may have been missed (an overflow, a
reconnect, a message lost on the way) is marked as a gap, and the reader goes back to the log.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import TimeoutError as RedisTimeoutError

from shared.backoff import backoff
from shared.valkey.client import REDIS_FAILURE, Valkey
from shared.valkey.connect import CONNECT_TIMEOUT_SECS
from shared.valkey.keyspace import TurnKeys

logger = logging.getLogger(__name__)

HEARTBEAT_SECS = 5.0
"""A subscribed connection is silent for as long as nothing happens: a PING tells a quiet one from a dead one."""
ACK_TIMEOUT_SECS = 2.0


class LiveEntry(NamedTuple):
    """An announced entry. `previous` is the id of the entry before it in the log, empty for the first."""

    previous: bytes
    id: bytes
    event: bytes
    body: bytes


class Subscription:
    """One reader's view of one turn's channel: a small buffer that overflows into a gap, never into memory."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._entries: deque[LiveEntry] = deque()
        self._wake = asyncio.Event()
        self.has_gap = True
        """Something may be missing: read the log."""

    def take(self) -> list[LiveEntry]:
        """What has been announced since the last call, in order."""
        entries = list(self._entries)
        self._entries.clear()
        return entries

    def begin_reading_log(self) -> None:
        """Forget gap and buffer: what is announced from here on follows the read that comes now."""
        self.has_gap = False
        self._entries.clear()

    def offer(self, entry: LiveEntry) -> None:
        if self.has_gap:
            return
        if len(self._entries) >= self._capacity:
            self.mark_gap()
            return
        self._entries.append(entry)
        self._wake.set()

    def mark_gap(self) -> None:
        self._entries.clear()
        self.has_gap = True
        self._wake.set()

    def wake(self) -> None:
        """Make the reader look around: something other than an entry has happened."""
        self._wake.set()

    async def wait(self, seconds: float) -> None:
        """Return when something has happened since the last call, or after `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return
        self._wake.clear()


class _Channel:
    def __init__(self) -> None:
        self.subscriptions: set[Subscription] = set()
        self.unacknowledged = 0
        self.is_live = asyncio.Event()


class LiveFeed:
    """The process's one subscriber. `run` owns the connection, and makes it again for as long as it runs."""

    def __init__(self, valkey: Valkey, *, capacity: int, is_fast: bool) -> None:
        self._valkey = valkey
        self._capacity = capacity
        self._is_fast = is_fast
        self._channels: dict[bytes, _Channel] = {}
        self._connection: AbstractConnection | None = None
        self._commands: deque[tuple[str | bytes, ...]] = deque()
        self._has_commands = asyncio.Event()

    @property
    def is_connected(self) -> bool:
        return self._connection is not None

    @contextmanager
    def subscribed(self, keys: TurnKeys) -> Iterator[Subscription]:
        """Receive the turn's entries for the length of the block, once `confirm` has returned."""
        name = keys.live.encode()
        channel = self._channels.get(name)
        if channel is None:
            channel = self._channels[name] = _Channel()
            self._subscribe(name, channel)
        subscription = Subscription(self._capacity)
        channel.subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            channel.subscriptions.discard(subscription)
            if not channel.subscriptions and self._channels.get(name) is channel:
                del self._channels[name]
                self._send("UNSUBSCRIBE", name)

    async def confirm(self, keys: TurnKeys) -> None:
        """Return once the server has confirmed the subscription, so that a read of the log leaves nothing out.

        Without a connection it returns too: the reconnect marks a gap for every reader.
        """
        channel = self._channels[keys.live.encode()]
        if self._connection is None:
            return
        try:
            async with asyncio.timeout(ACK_TIMEOUT_SECS):
                await channel.is_live.wait()
        except TimeoutError:
            logger.warning("a subscription was not confirmed in time")

    async def run(self) -> None:
        """Keep the connection and pass on what it brings, until cancelled."""
        delays = backoff(first=0.05, longest=2.0)
        while True:
            try:
                connection = await self._connect()
                delays = backoff(first=0.05, longest=2.0)
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._write(connection), name="live feed writer")
                    tasks.create_task(self._read(connection), name="live feed reader")
            except* REDIS_FAILURE as group:
                logger.warning("the live feed is broken, will connect again: %r", group.exceptions[0])
            except* Exception as group:
                logger.exception("the live feed failed, will connect again", exc_info=group)
            finally:
                await self._disconnect()
            await asyncio.sleep(next(delays))

    async def drop_connection(self) -> None:
        """Break the connection as a network would; `run` makes it again. For tests of the way back."""
        if self._connection is not None:
            await self._connection.disconnect(nowait=True)

    async def _connect(self) -> AbstractConnection:
        connection: AbstractConnection = self._valkey.connection_pool.make_connection()  # type: ignore[no-untyped-call]
        async with asyncio.timeout(CONNECT_TIMEOUT_SECS):
            await connection.connect()  # type: ignore[no-untyped-call]
        self._connection = connection
        self._commands.clear()
        for name, channel in self._channels.items():
            channel.unacknowledged = 0
            channel.is_live.clear()
            self._subscribe(name, channel)
        return connection

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect(nowait=True)
        for channel in self._channels.values():
            channel.is_live.set()  # nobody shall wait for what cannot come; the gap sends readers to the log
            for subscription in channel.subscriptions:
                subscription.mark_gap()

    async def _write(self, connection: AbstractConnection) -> None:
        """The connection's only writer: commands go out in the order in which they were given."""
        while True:
            await self._has_commands.wait()
            self._has_commands.clear()
            packed = [connection.pack_command(*self._commands.popleft()) for _ in range(len(self._commands))]
            await connection.send_packed_command([part for parts in packed for part in parts], check_health=False)

    async def _read(self, connection: AbstractConnection) -> None:
        is_waiting_for_pong = False
        while True:
            message = await connection.read_response(timeout=HEARTBEAT_SECS, disconnect_on_error=False)
            if message is not None:
                is_waiting_for_pong = False
                self._dispatch(message)
                continue
            if is_waiting_for_pong:
                raise RedisTimeoutError("the server does not answer")
            is_waiting_for_pong = True
            self._send("PING")

    def _dispatch(self, message: Any) -> None:
        kind, name = message[0], message[1]
        if kind == b"message":
            channel = self._channels.get(name)
            if channel is not None:
                self._announce(channel, message[2])
        elif kind == b"subscribe":
            channel = self._channels.get(name)
            if channel is not None:
                self._acknowledge(channel)

    def _announce(self, channel: _Channel, payload: bytes) -> None:
        if not self._is_fast:
            for subscription in channel.subscriptions:
                subscription.mark_gap()
            return
        head, _, body = payload.partition(b"\n")
        # A newer release may say more about an entry than we know.
        previous, entry_id, event = head.split(b" ", 3)[:3]
        entry = LiveEntry(previous, entry_id, event, body)
        for subscription in channel.subscriptions:
            subscription.offer(entry)

    def _acknowledge(self, channel: _Channel) -> None:
        # A channel left and entered again in a moment has two confirmations under way: the last one counts.
        channel.unacknowledged -= 1
        if channel.unacknowledged <= 0:
            channel.is_live.set()
            for subscription in channel.subscriptions:
                subscription.mark_gap()

    def _subscribe(self, name: bytes, channel: _Channel) -> None:
        channel.unacknowledged += 1
        self._send("SUBSCRIBE", name)

    def _send(self, *command: str | bytes) -> None:
        """Have the writer send `command`; without a connection it is dropped: the next one subscribes to everything."""
        if self._connection is not None:
            self._commands.append(command)
            self._has_commands.set()

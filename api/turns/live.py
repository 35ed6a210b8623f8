"""One subscription connection for all streams of an API process.

Entries of event logs are announced on their turn's channel at the moment they are appended, each with the id of the
entry before it. This saves readers the read; it is never the truth: whatever may have been missed (an overflow, a
reconnect, a message lost on the way) is marked as a gap, and the reader goes back to the log.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from redis.exceptions import ResponseError

from api.turns.subscriber import Subscriber
from shared.backoff import backoff
from shared.valkey.client import REDIS_FAILURE, Valkey
from shared.valkey.keyspace import TurnKeys

logger = logging.getLogger(__name__)

ACK_TIMEOUT_SECS = 2.0
RECONNECT_SECS = (0.05, 2.0)
PROBE_EVERY = 16


class LiveEntry(NamedTuple):
    """An announced entry. `previous` is the id of the entry before it in the log, empty for the first."""

    previous: bytes
    id: bytes
    event: bytes
    body: bytes


class Subscription:
    """One reader's view of one turn's channel: a small buffer that overflows into a gap, never into memory.

    There are as many of these as clients, most of them idle: no timer, no lock and no queue of their own.
    """

    __slots__ = ("_capacity", "_entries", "_is_awake", "_waiter", "channel", "has_gap")

    def __init__(self, channel: bytes, capacity: int) -> None:
        self.channel = channel
        self._capacity = capacity
        self._entries: list[LiveEntry] = []
        self._is_awake = False
        self._waiter: asyncio.Future[None] | None = None
        self.has_gap = True
        """Something may be missing: read the log."""

    def take(self) -> list[LiveEntry]:
        """What has been announced since the last call, in order."""
        entries, self._entries = self._entries, []
        return entries

    def begin_reading_log(self) -> None:
        """Forget all that has happened: what is announced from here on follows the read that comes now."""
        self.has_gap = self._is_awake = False
        self._entries.clear()

    def offer(self, entry: LiveEntry) -> None:
        if self.has_gap:
            return
        if len(self._entries) >= self._capacity:
            self.mark_gap()
            return
        self._entries.append(entry)
        if not self._is_awake:
            self.wake()

    def announce(self) -> None:
        """There is an entry, which must be read from the log."""
        self.mark_gap()

    def mark_gap(self) -> None:
        self._entries.clear()
        self.has_gap = True
        self.wake()

    def wake(self) -> None:
        """Make the reader look around: something may have happened, an entry or anything else."""
        self._is_awake = True
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():  # it was cancelled
                waiter.set_result(None)

    async def wait(self) -> None:
        """Return when something has happened since the last call. There is one reader.

        It sets no timer: whoever must look around by itself has itself woken.
        """
        if not self._is_awake:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        self._is_awake = False


class Probe(Subscription):
    """A subscription that also tells how long its reader takes from an announcement to the next wait, when the client
    has been written to. One reader in `PROBE_EVERY` has it; for the others measuring costs nothing at all."""

    __slots__ = ("_heard_at", "_on_lag", "_taken_at")

    def __init__(self, channel: bytes, capacity: int, on_lag: Callable[[float], object]) -> None:
        super().__init__(channel, capacity)
        self._on_lag = on_lag
        self._heard_at: float | None = None
        """When the oldest entry came that has not been taken."""
        self._taken_at: float | None = None
        """The same of the oldest that has been."""

    def begin_reading_log(self) -> None:
        self._heard_at = None  # the log brings it as well; what was taken before is still to be written
        super().begin_reading_log()

    def take(self) -> list[LiveEntry]:
        self._taken_at, self._heard_at = self._heard_at, None
        return super().take()

    def announce(self) -> None:
        if self._heard_at is None:
            self._heard_at = time.monotonic()
        super().announce()

    def offer(self, entry: LiveEntry) -> None:
        if self._heard_at is None and not self.has_gap:
            self._heard_at = time.monotonic()
        super().offer(entry)

    async def wait(self) -> None:
        if self._taken_at is not None:
            self._on_lag((time.monotonic() - self._taken_at) * 1000)
            self._taken_at = None
        await super().wait()


class _Channel:
    __slots__ = ("pending", "subscriptions", "unacknowledged")

    def __init__(self) -> None:
        self.subscriptions: set[Subscription] = set()
        self.unacknowledged = 0
        self.pending: asyncio.Future[None] | None = None
        """Done once the server has confirmed; None if nothing is to be confirmed."""

    def await_confirmation(self) -> None:
        self.unacknowledged += 1
        if self.pending is None:
            self.pending = asyncio.get_running_loop().create_future()

    def stop_waiting(self) -> None:
        self.unacknowledged = 0
        if self.pending is not None:
            self.pending.set_result(None)
            self.pending = None

    def mark_gap(self) -> None:
        for subscription in self.subscriptions:
            subscription.mark_gap()


class LiveFeed:
    """The process's one subscriber. `run` owns the connection, and makes it again for as long as it runs."""

    def __init__(
        self, valkey: Valkey, *, capacity: int, is_fast: bool, on_lag: Callable[[float], object] = lambda _: None
    ) -> None:
        """
        Args:
            on_lag: told the milliseconds from an announcement to its write to a client, of a sample.
        """
        self._valkey = valkey
        self._capacity = capacity
        self._is_fast = is_fast
        self._channels: dict[bytes, _Channel] = {}
        self._on_lag = on_lag
        self._subscriptions = 0
        self._subscriber: Subscriber | None = None

    @property
    def is_connected(self) -> bool:
        return self._subscriber is not None

    def subscribe(self, keys: TurnKeys) -> Subscription:
        """Receive the turn's entries until `unsubscribe`, once `confirm` has returned."""
        name = keys.live.encode()
        channel = self._channels.get(name)
        if channel is None:
            channel = self._channels[name] = _Channel()
            self._enter(name, channel)
        is_probe = self._subscriptions % PROBE_EVERY == 0
        self._subscriptions += 1
        subscription = Probe(name, self._capacity, self._on_lag) if is_probe else Subscription(name, self._capacity)
        channel.subscriptions.add(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        name = subscription.channel
        channel = self._channels[name]
        channel.subscriptions.remove(subscription)
        if not channel.subscriptions:
            del self._channels[name]
            channel.stop_waiting()
            if self._subscriber is not None:
                self._subscriber.send(b"UNSUBSCRIBE", name)

    @contextmanager
    def subscribed(self, keys: TurnKeys) -> Iterator[Subscription]:
        """Receive the turn's entries for the length of the block."""
        subscription = self.subscribe(keys)
        try:
            yield subscription
        finally:
            self.unsubscribe(subscription)

    async def confirm(self, subscription: Subscription) -> None:
        """Return once the server has confirmed the subscription, so that a read of the log leaves nothing out.

        Without a connection it returns too: the reconnect marks a gap for every reader.
        """
        pending = self._channels[subscription.channel].pending
        if pending is None:
            return
        await asyncio.wait({pending}, timeout=ACK_TIMEOUT_SECS)
        if not pending.done():
            logger.warning("a subscription was not confirmed in time")

    async def run(self) -> None:
        """Keep the connection and pass on what it brings, until cancelled."""
        first, longest = RECONNECT_SECS
        delays = backoff(first=first, longest=longest)
        while True:
            try:
                reason = await self._serve()
                # A server that refuses what it is asked would refuse it again at once.
                if not isinstance(reason, ResponseError):
                    delays = backoff(first=first, longest=longest)
            except Exception as error:
                reason = error
            if isinstance(reason, REDIS_FAILURE):
                logger.warning("the live feed is broken, will connect again: %r", reason)
            else:
                logger.error("the live feed failed, will connect again", exc_info=reason)
            await asyncio.sleep(next(delays))

    async def drop_connection(self) -> None:
        """Break the connection as a network would; `run` makes it again. For tests of the way back."""
        if self._subscriber is not None:
            self._subscriber.close()

    async def _serve(self) -> Exception:
        """Connect, and return why that has come to an end."""
        subscriber = await Subscriber.connect(self._valkey.connection_pool, self._dispatch)
        self._subscriber = subscriber
        try:
            for name, channel in self._channels.items():
                self._enter(name, channel)
            return await subscriber.until_end()
        finally:
            self._subscriber = None
            subscriber.close()
            for channel in self._channels.values():
                channel.stop_waiting()  # nobody shall wait for what cannot come; the gap sends readers to the log
                channel.mark_gap()

    def _enter(self, name: bytes, channel: _Channel) -> None:
        """Have the server send the channel; without a connection the next one will."""
        if self._subscriber is not None:
            channel.await_confirmation()
            self._subscriber.send(b"SUBSCRIBE", name)

    def _dispatch(self, message: Any) -> None:
        if not isinstance(message, list):
            return  # the answer to a PING while nothing is subscribed
        kind, name = message[0], message[1]
        channel = self._channels.get(name)
        if channel is None:
            return
        if kind == b"message":
            self._announce(channel, message[2])
        elif kind == b"subscribe":
            self._acknowledge(channel)

    def _announce(self, channel: _Channel, payload: bytes) -> None:
        if not self._is_fast:
            for subscription in channel.subscriptions:
                subscription.announce()
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
            channel.stop_waiting()
            channel.mark_gap()

"""One connection that carries the commands of a whole process, many at a time.

Commands given in the same tick of the event loop leave in one write; replies come in the order of the commands and are
matched to them by it. Nobody waits for a free connection, and a command costs a future instead of a trip through a
pool and a stream reader.

Because replies are matched by order, a connection on which one is overdue can never be used again: it is given up, and
every command on it fails. Whether such a command was executed is unknown, as always when a connection breaks. A caller
that stops waiting disturbs nobody: its reply is dropped when it comes. Blocking commands hold up everything behind them
and need a client of their own.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, cast

import hiredis
from redis.asyncio import ConnectionPool
from redis.asyncio.connection import DefaultParser
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import DataError, InvalidResponse, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from shared.valkey.connect import open_stream

_INCOMPLETE = object()


class ReplyMatcher(asyncio.Protocol):
    """Writes commands and settles their futures in order, until the connection ends or a reply is overdue."""

    def __init__(self, *, timeout_secs: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._timeout_secs = timeout_secs
        self._replies = hiredis.Reader(
            protocolError=InvalidResponse, replyError=DefaultParser.parse_error, notEnoughData=_INCOMPLETE
        )
        self._waiting: deque[tuple[asyncio.Future[Any], float]] = deque()
        self._unsent: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None
        self.is_open = False

    def send(self, command: bytes) -> asyncio.Future[Any]:
        """The future of the reply; an error reply is its exception."""
        reply: asyncio.Future[Any] = self._loop.create_future()
        if not self.is_open:
            reply.set_exception(RedisConnectionError("the connection is closed"))
            return reply
        if not self._unsent:
            self._loop.call_soon(self._flush)
        self._unsent.append(command)
        deadline = self._loop.time() + self._timeout_secs
        self._waiting.append((reply, deadline))
        if self._timer is None:
            self._timer = self._loop.call_at(deadline, self._check_oldest)
        return reply

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are none by inheritance
        self.is_open = True

    def data_received(self, data: bytes) -> None:
        try:
            self._replies.feed(data)
            while (reply := self._replies.gets()) is not _INCOMPLETE:
                future, _ = self._waiting.popleft()
                if future.done():
                    continue  # its caller has stopped waiting
                if isinstance(reply, RedisError):
                    future.set_exception(reply)
                else:
                    future.set_result(reply)
        except (InvalidResponse, IndexError):
            self.give_up(lambda: RedisConnectionError("the server sent what no command asked for"))

    def connection_lost(self, exc: Exception | None) -> None:
        self.give_up(lambda: RedisConnectionError(f"the connection was lost: {exc!r}"))

    def give_up(self, error: Callable[[], RedisError]) -> None:
        """Close the connection at once; every command that waits fails."""
        self.is_open = False
        self._unsent.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._transport is not None:
            self._transport.abort()
        while self._waiting:
            future, _ = self._waiting.popleft()
            if not future.done():
                future.set_exception(error())

    def _flush(self) -> None:
        if self._unsent and self._transport is not None:
            self._transport.write(b"".join(self._unsent))
            self._unsent.clear()

    def _check_oldest(self) -> None:
        """All commands have the same time limit: the oldest is due first, and one timer serves them all."""
        self._timer = None
        if not self._waiting:
            return
        deadline = self._waiting[0][1]
        if deadline <= self._loop.time():
            self.give_up(lambda: RedisTimeoutError("the server does not answer"))
        else:
            self._timer = self._loop.call_at(deadline, self._check_oldest)


class PipelinedConnection:
    """The connection in use, opened on first use and again after each failure."""

    def __init__(self, pool: ConnectionPool, *, timeout_secs: float) -> None:
        self._pool = pool
        self._timeout_secs = timeout_secs
        self._matcher: ReplyMatcher | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._opening: asyncio.Task[None] | None = None

    @property
    def is_connected(self) -> bool:
        return self._matcher is not None and self._matcher.is_open

    async def execute(self, words: Sequence[Any]) -> Any:
        """Raises what the server answers, or RedisError, OSError or TimeoutError if it does not."""
        command = pack(words)
        if self._matcher is None or not self._matcher.is_open:  # `is_connected`, on the hot path
            await self._open()
        return await self._send(command)

    async def execute_all(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """Run the commands in order in one round trip, not atomically; each answer is a reply or an exception."""
        packed = [pack(words) for words in commands]
        if not self.is_connected:
            await self._open()
        return await asyncio.gather(*[self._send(command) for command in packed], return_exceptions=True)

    async def aclose(self) -> None:
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait({self._opening})
        if self._matcher is not None:
            self._matcher.give_up(lambda: RedisConnectionError("the client was closed"))
            # The transport closes in the next tick; its socket must not outlive the loop.
            await asyncio.sleep(0)
        self._matcher = self._writer = None

    def _send(self, command: bytes) -> asyncio.Future[Any]:
        assert self._matcher is not None  # noqa: S101 (`_open` has returned)
        return self._matcher.send(command)

    async def _open(self) -> None:
        """All who wait share one try, and its failure; one who stops waiting does not stop it for the others."""
        if self._opening is None:
            self._opening = asyncio.get_running_loop().create_task(self._connect(), name="connect to Valkey")
            self._opening.add_done_callback(self._opened)
        await asyncio.shield(self._opening)

    async def _connect(self) -> None:
        matcher = ReplyMatcher(timeout_secs=self._timeout_secs)
        self._matcher, self._writer = await open_stream(self._pool, matcher)

    def _opened(self, task: asyncio.Task[None]) -> None:
        self._opening = None
        if not task.cancelled():
            task.exception()  # those who wait have it; there may be none left


def pack(words: Sequence[Any]) -> bytes:
    """The bytes of a command. A name of two words ("CLIENT LIST") is two arguments.

    Raises:
        DataError: an argument that is no text, bytes or number.
    """
    name = words[0]
    if " " in name:
        words = (*name.split(), *words[1:])
    try:
        packed: bytes = hiredis.pack_command(tuple(words))
    except TypeError as error:
        raise DataError(str(error)) from error
    return packed

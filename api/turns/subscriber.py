"""The connection on which an API process hears what is published, read without a task switch per message.

redis-py connects: TCP, TLS or a Unix socket, credentials, client name, RESP version, whatever the URL asks for. Its
reading then costs several coroutines a message, so that the socket is handed to a protocol that parses with hiredis and
passes messages on from within `data_received`. On a connection that has just been greeted nothing is under way, so that
no byte can be lost between the two.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, cast

import hiredis
from redis.asyncio import ConnectionPool
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from shared.valkey.connect import open_stream

HEARTBEAT_SECS: Final = 5.0
"""A subscribed connection is silent for as long as nothing happens: a PING tells a quiet one from a dead one."""

_MORE_TO_COME: Final = object()


class Subscriber(asyncio.Protocol):
    """One connection, from its greeting to its end. Give it commands with `send`; `ended` says why it is over."""

    def __init__(self, on_message: Callable[[Any], None]) -> None:
        """
        Args:
            on_message: called with each message, in order. What it raises ends the connection.
        """
        self._on_message = on_message
        self._reader = hiredis.Reader(
            protocolError=InvalidResponse, replyError=ResponseError, notEnoughData=_MORE_TO_COME
        )
        self._writer: asyncio.StreamWriter | None = None
        self._transport: asyncio.Transport | None = None
        self._has_heard = False
        self.ended: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()

    @classmethod
    async def connect(cls, pool: ConnectionPool, on_message: Callable[[Any], None]) -> Subscriber:
        """Connect as the pool would, beside it.

        Raises:
            REDIS_FAILURE: the server is out of reach, or refuses the credentials.
        """
        subscriber, writer = await open_stream(pool, cls(on_message))
        subscriber._writer = writer
        return subscriber

    def send(self, *words: str | bytes | int) -> None:
        if self._transport is not None:
            self._transport.write(hiredis.pack_command(cast("Any", words)))

    async def until_end(self) -> Exception:
        """Why the connection has ended; a server that does not answer for `HEARTBEAT_SECS` ends it."""
        while not self.ended.done():
            self._has_heard = False
            self.send(b"PING")
            await asyncio.wait({self.ended}, timeout=HEARTBEAT_SECS)
            if not self._has_heard and not self.ended.done():
                self._end(RedisTimeoutError("the server does not answer"))
        return self.ended.result()

    def close(self) -> None:
        self._end(RedisConnectionError("the connection was closed"))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._has_heard = True
        reader = self._reader
        try:
            reader.feed(data)
            while (message := reader.gets()) is not _MORE_TO_COME:
                if isinstance(message, Exception):
                    raise message
                self._on_message(message)
        except Exception as error:
            self._end(error)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(exc or RedisConnectionError("the server closed the connection"))

    def _end(self, reason: Exception) -> None:
        if self._transport is not None:
            self._transport.abort()
            self._transport = None
        self._writer = None
        if not self.ended.done():
            self.ended.set_result(reason)

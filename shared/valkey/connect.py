"""Connections to Valkey/Redis that we read ourselves.

redis-py opens them: TLS, Unix sockets, passwords, credential providers and database numbers mean here what they mean
everywhere else. What it is slow at is the exchange afterwards, so from then on the bytes are the given protocol's.
"""

from __future__ import annotations

import asyncio
from typing import TypeVar

from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError

CONNECT_TIMEOUT_SECS = 2.0

P = TypeVar("P", bound=asyncio.Protocol)


async def open_stream(pool: ConnectionPool, protocol: P) -> tuple[P, asyncio.StreamWriter]:
    """Open a connection as `pool` would, logged in and with its database selected, and hand it to `protocol`.

    The writer that comes with it must be kept for as long as the connection: it closes its transport when it dies.

    Raises:
        RedisError, OSError, TimeoutError: the server is out of reach or refuses us.
    """
    connection: AbstractConnection = pool.make_connection()  # type: ignore[no-untyped-call]
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_SECS):
            await connection.connect()  # type: ignore[no-untyped-call]
    except BaseException:
        await connection.disconnect(nowait=True)
        raise
    # Every reply of the handshake has been read: nothing is left in redis-py's buffers.
    writer = connection._writer
    connection._reader = connection._writer = None
    if writer is None:
        raise RedisConnectionError("the connection was closed as soon as it was open")
    transport = writer.transport
    transport.set_protocol(protocol)
    protocol.connection_made(transport)
    return protocol, writer

"""Connections to Valkey/Redis: one small pool per process, whatever the number of clients and turns."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from shared.settings import ConfigurationError, RedisSettings

Valkey = Redis

COMMAND_CONNECTIONS = 4
"""Commands take well under a millisecond: four connections carry tens of thousands a second."""
CONNECT_TIMEOUT_SECS = 2.0
COMMAND_TIMEOUT_SECS = 5.0

REDIS_AWAY = (RedisConnectionError, RedisTimeoutError, OSError, TimeoutError)
"""What a command raises while the server cannot be reached."""

REDIS_FAILURE = (RedisError, OSError, TimeoutError)
"""REDIS_AWAY, and also what the server itself answers while it loads its data, is read-only or out of memory."""


def redis_url(settings: RedisSettings) -> str:
    """The URL, with its password.

    Raises:
        ConfigurationError: `redis.url` is not set.
    """
    if settings.url is None:
        raise ConfigurationError("redis.url: is required")
    return settings.url.get_secret_value()


@asynccontextmanager
async def open_valkey(
    settings: RedisSettings,
    *,
    connections: int = COMMAND_CONNECTIONS,
    command_timeout_secs: float | None = COMMAND_TIMEOUT_SECS,
) -> AsyncIterator[Valkey]:
    """Open a pool for the length of the block. Connections are made on first use, not here.

    A caller waits for a free connection rather than open another one.
    """
    options: dict[str, Any] = {
        "max_connections": connections,
        "timeout": COMMAND_TIMEOUT_SECS,
        "socket_connect_timeout": CONNECT_TIMEOUT_SECS,
        "socket_timeout": command_timeout_secs,
        "socket_keepalive": True,
    }
    pool = BlockingConnectionPool.from_url(redis_url(settings), **options)
    client: Valkey = Redis(connection_pool=pool)
    try:
        yield client
    finally:
        await client.aclose()
        await pool.aclose()

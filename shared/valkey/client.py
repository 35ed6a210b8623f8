"""Connections to Valkey/Redis: one small pool per process, whatever the number of clients and turns."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.client import Pipeline
from redis.exceptions import RedisError

from shared.settings import ConfigurationError, RedisSettings

COMMAND_CONNECTIONS = 4
"""Commands take well under a millisecond: four connections carry tens of thousands a second."""
CONNECT_TIMEOUT_SECS = 2.0
COMMAND_TIMEOUT_SECS = 5.0

REDIS_FAILURE = (RedisError, OSError, TimeoutError)
"""What a command raises: the server is out of reach, loads its data, is read-only or out of memory."""


def redis_url(settings: RedisSettings) -> str:
    """The URL, with its password.

    Raises:
        ConfigurationError: `redis.url` is not set.
    """
    if settings.url is None:
        raise ConfigurationError("redis.url: is required")
    return settings.url.get_secret_value()


class TimedPipeline(Pipeline):
    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        async with asyncio.timeout(COMMAND_TIMEOUT_SECS):
            return await super().execute(raise_on_error)


class Valkey(Redis):
    """A client whose commands end within COMMAND_TIMEOUT_SECS, by TimeoutError if need be.

    redis-py's own `socket_timeout` is left off: it sends through `asyncio.wait_for`, which on Python 3.11 can swallow a
    cancellation, and a task that misses its cancellation never ends.
    """

    async def execute_command(self, *words: Any, **options: Any) -> Any:
        async with asyncio.timeout(COMMAND_TIMEOUT_SECS):
            return await super().execute_command(*words, **options)  # type: ignore[no-untyped-call]

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> TimedPipeline:
        return TimedPipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)


@asynccontextmanager
async def open_valkey(settings: RedisSettings, *, connections: int = COMMAND_CONNECTIONS) -> AsyncIterator[Valkey]:
    """Open a pool for the length of the block. Connections are made on first use, not here.

    A caller waits for a free connection rather than open another one.
    """
    options: dict[str, Any] = {
        "max_connections": connections,
        "timeout": COMMAND_TIMEOUT_SECS,
        "socket_connect_timeout": CONNECT_TIMEOUT_SECS,
    }
    url = redis_url(settings)
    if not url.startswith("unix:"):
        options["socket_keepalive"] = True
    pool = BlockingConnectionPool.from_url(url, **options)
    client = Valkey(connection_pool=pool)
    try:
        yield client
    finally:
        await client.aclose()
        await pool.aclose()

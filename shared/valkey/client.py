"""The client of Valkey/Redis: one connection per process for its commands, whatever the number of clients and turns."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis
from redis.asyncio.client import Pipeline
from redis.exceptions import RedisError

from shared.settings import ConfigurationError, RedisSettings
from shared.valkey.connect import CONNECT_TIMEOUT_SECS
from shared.valkey.pipeline import PipelinedConnection

SUBSCRIBE_CONNECTIONS = 2
COMMAND_TIMEOUT_SECS = 5.0

REDIS_FAILURE = (RedisError, OSError, TimeoutError)
"""What a command raises: the server is out of reach, loads its data, is read-only or out of memory."""


def is_valkey_away(error: BaseException) -> bool:
    return isinstance(error, REDIS_FAILURE)


def redis_url(settings: RedisSettings) -> str:
    """The URL, with its password.

    Raises:
        ConfigurationError: `redis.url` is not set.
    """
    if settings.url is None:
        raise ConfigurationError("redis.url: not set. Set MINI_CHAT_REDIS__URL")
    return settings.url.get_secret_value()


class CommandPipeline(Pipeline):
    """Commands in one round trip, without MULTI, on the connection of all others."""

    def __init__(self, valkey: Valkey) -> None:
        super().__init__(valkey.connection_pool, valkey.response_callbacks, transaction=False, shard_hint=None)
        self._valkey = valkey

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        commands, self.command_stack = self.command_stack, []
        answers = await self._valkey.commands.execute_all([words for words, _ in commands])
        for index, (words, options) in enumerate(commands):
            if not isinstance(answers[index], BaseException):
                answers[index] = self._valkey.parse(words[0], answers[index], options)
            elif raise_on_error:
                raise answers[index]
        return answers


class Valkey(Redis):
    """redis-py's commands on one connection for all callers, each ending within COMMAND_TIMEOUT_SECS.

    Only subscriptions take connections of redis-py's pool. Its own `socket_timeout` is left off: it
    sends through `asyncio.wait_for`, which on Python 3.11 can swallow a cancellation, and a task that misses its
    cancellation never ends.
    """

    def __init__(self, *, connection_pool: ConnectionPool) -> None:
        super().__init__(connection_pool=connection_pool)
        self.commands = PipelinedConnection(connection_pool, timeout_secs=COMMAND_TIMEOUT_SECS)

    async def execute_command(self, *words: Any, **options: Any) -> Any:
        return self.parse(words[0], await self.commands.execute(words), options)

    def parse(self, name: str | bytes, reply: Any, options: Mapping[str, Any]) -> Any:
        """A reply as redis-py gives it for the command."""
        parse = self.response_callbacks.get(name)
        if parse is None:
            return reply
        # `keys` is meant for redis-py's client-side cache.
        return parse(reply, **{key: value for key, value in options.items() if key != "keys"})

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> CommandPipeline:  # noqa: ARG002
        if transaction:
            raise NotImplementedError("an atomic step is a script")
        return CommandPipeline(self)

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        await self.commands.aclose()
        await super().aclose(close_connection_pool)


@asynccontextmanager
async def open_valkey(settings: RedisSettings) -> AsyncIterator[Valkey]:
    """Open a client for the length of the block. Connections are made on first use, not here."""
    options: dict[str, Any] = {
        "max_connections": SUBSCRIBE_CONNECTIONS,
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

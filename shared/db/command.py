"""Running a command that needs PostgreSQL, and saying in one line why it could not."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import asyncpg
from sqlalchemy.exc import DBAPIError

from shared.console import fail
from shared.settings import ConfigurationError, Settings
from shared.valkey.client import REDIS_FAILURE

DATABASE_FAILURE = (DBAPIError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)
"""What a command meets whose database is away, refuses it, or has another schema."""


def run_on_database(settings: Settings, work: Coroutine[Any, Any, int]) -> int:
    """Run a command that can do nothing without PostgreSQL; its exit code.

    Raises:
        ConfigurationError: `database.url` is not set.
    """
    if settings.database.url is None:
        work.close()
        raise ConfigurationError(
            "database.url: not set. Set MINI_CHAT_DATABASE__URL; `mini-chat run` writes it to"
            f" {settings.data_dir / 'run.json'} as database_url"
        )
    try:
        return asyncio.run(work)
    except BrokenPipeError:
        raise  # of our output: no server is at fault
    except DATABASE_FAILURE as error:
        return fail(f"the database cannot be used: {reason_of(error)}")
    except REDIS_FAILURE as error:
        return fail(f"Valkey or Redis cannot be used: {reason_of(error)}")


def reason_of(error: BaseException) -> str:
    """The first line of what a server or the network said."""
    cause = getattr(error, "orig", None) or error
    return (str(cause).strip() or type(cause).__name__).splitlines()[0]

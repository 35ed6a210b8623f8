"""Run a transaction again when PostgreSQL chose it as the victim of a deadlock or a serialization failure."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from shared.db.engine import Sessions

T = TypeVar("T")

MAX_TRIES = 3
# https://www.postgresql.org/docs/current/errcodes-appendix.html
_RETRYABLE = {"40001", "40P01"}


async def run_transaction(sessions: Sessions, work: Callable[[AsyncSession], Awaitable[T]]) -> T:
    """Commit what `work` does, or nothing. `work` may run up to three times and must have no other effects."""
    for attempt in range(1, MAX_TRIES + 1):
        try:
            async with sessions.begin() as session:
                return await work(session)
        except DBAPIError as error:
            if sqlstate(error) not in _RETRYABLE or attempt == MAX_TRIES:
                raise
    raise AssertionError("unreachable")


def sqlstate(error: DBAPIError) -> str | None:
    """PostgreSQL's five-character code of the failure, where it came from the server."""
    return getattr(error.orig, "sqlstate", None)

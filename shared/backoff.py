"""How long to wait before the next try, and trying until an outage is over."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

T = TypeVar("T")


def backoff(*, first: float, longest: float) -> Iterator[float]:
    """Seconds to wait before each further try, for ever: doubling, with jitter so that a fleet spreads out."""
    delay = first
    while True:
        yield delay * random.uniform(0.75, 1.25)  # noqa: S311 (jitter, not a secret)
        delay = min(delay * 2, longest)


async def outlast(
    call: Callable[[], Awaitable[T]], *, is_outage: Callable[[Exception], bool], first: float, longest: float = 2.0
) -> T:
    """What `call` returns, tried again for as long as `is_outage` says of its failure that it will pass.

    `is_outage` sees every failure, so it is the place to log it, and to give up: any other failure is raised. A call
    that has become pointless meanwhile returns at its next try.
    """
    for delay in backoff(first=first, longest=longest):
        try:
            return await call()
        except Exception as error:
            if not is_outage(error):
                raise
        await asyncio.sleep(delay)
    raise AssertionError("backoff never ends")

"""Work that a process repeats by the clock, beside what it serves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta

logger = logging.getLogger(__name__)

RETRY_SECS = 1.0


async def every(interval: timedelta, work: Callable[[], Awaitable[None]], *, name: str) -> None:
    """Repeat `work` for ever, with `interval` between the starts; a failure is logged and tried again soon."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + interval.total_seconds()
        try:
            await work()
        except Exception as error:
            logger.warning("%s failed, will try again: %r", name, error)
            due = loop.time() + min(RETRY_SECS, interval.total_seconds())
        await asyncio.sleep(max(0.0, due - loop.time()))

"""Tasks that outlive the code that starts them, with an owner who ends them.

A TaskGroup is the first choice. This is for work that its starter must not wait for: the owner keeps the reference
(the event loop holds tasks only weakly), failures are logged instead of lost, and `aclose()` leaves nothing running.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

CANCEL_AGAIN_SECS = 0.5

_log = logging.getLogger(__name__)


class BackgroundTasks:
    """A set of named tasks; a finished one leaves it by itself."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def spawn(self, coro: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
        """Start `coro`; what it raises is logged under `name`, also when nobody awaits the task."""
        task = asyncio.create_task(coro, name=name)  # noqa: TID251 (the one place that may)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    async def aclose(self) -> None:
        """Cancel every task and wait until it ended, those included that others spawn meanwhile.

        A task that has not taken its first step never will, nor its `finally`: what it should close, its owner closes.
        """
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            # A library may swallow a cancellation: ask again rather than wait for ever.
            await asyncio.wait(self._tasks, timeout=CANCEL_AGAIN_SECS)
            self._tasks = {task for task in self._tasks if not task.done()}

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("background task %s failed", task.get_name(), exc_info=error)

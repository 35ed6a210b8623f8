"""A timeout for thousands of short waits in a row.

`asyncio.timeout` arms and disarms a timer each time, which is a third of the cost of a delta when every delta is a
read of its own. Here one timer stays armed; when it fires it looks whether the limit has moved meanwhile, as it nearly
always has, and sleeps on.
"""

from __future__ import annotations

import asyncio
from types import TracebackType


class LazyTimeout:
    """`with timeout.until(when):` around one wait of one task at a time; `close()` when there are no more."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._when = 0.0
        self._waiting: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._has_expired = False

    def until(self, when: float) -> LazyTimeout:
        """Set the limit, in the loop's time; entering makes it effective."""
        self._when = when
        return self

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def __enter__(self) -> None:
        self._waiting = asyncio.current_task()
        assert self._waiting is not None  # noqa: S101 (a coroutine always runs in a task)
        self._cancelling = self._waiting.cancelling()
        if self._timer is None or self._timer.when() > self._when:
            self._arm()

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        """Turn our own cancellation into TimeoutError; somebody else's goes on, even if both came."""
        task, self._waiting = self._waiting, None
        if not self._has_expired or task is None:
            return
        self._has_expired = False
        if task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError

    def _arm(self) -> None:
        self.close()
        self._timer = self._loop.call_at(self._when, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._waiting is None:
            return  # the next wait arms it again
        if self._loop.time() < self._when:
            self._arm()
            return
        self._has_expired = True
        self._waiting.cancel()

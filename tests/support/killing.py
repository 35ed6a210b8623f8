"""Stops a coroutine for good at the n-th point where it waits, as the death of its process would."""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class KilledError(BaseException):
    """Not an `Exception`: nothing handles a death."""


class KilledAt(Generic[T]):
    """`await KilledAt(work(), step=n)` runs until its n-th wait is over and raises there; fewer waits: no effect."""

    def __init__(self, work: Coroutine[Any, Any, T], *, step: int) -> None:
        self._work = work
        self._step = step

    def __await__(self) -> Generator[Any, Any, T]:
        waits = 0
        try:
            waited_for = self._work.send(None)
            while True:
                failure: BaseException | None = None
                try:
                    yield waited_for
                except BaseException as error:
                    failure = error
                waits += 1
                if waits == self._step:
                    failure = KilledError()
                waited_for = self._work.send(None) if failure is None else self._work.throw(failure)
        except StopIteration as finished:
            result: T = finished.value
            return result

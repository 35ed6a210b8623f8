"""Leaves a provider alone that fails again and again: a call then fails at once instead of after its time limit.

    closed      calls go through; `FAILURES_TO_OPEN` failures without a success between them open it
    open        no call goes through for a while
    half open   one does, the probe: an answer closes the circuit, a failure opens it for twice as long

A failure is an outage: no connection, no answer in time, an answer that breaks off, a 5xx. A refusal is none, nor an
error that is told in an answer: the provider is there. Calls that were under way when the circuit opened change
nothing any more.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

FAILURES_TO_OPEN: Final = 5
FIRST_PAUSE_SECS: Final = 10.0
LONGEST_PAUSE_SECS: Final = 60.0


class CircuitOpenError(Exception):
    """The provider is being left alone."""


class CircuitBreaker:
    """One circuit. For one event loop."""

    def __init__(
        self,
        *,
        is_enabled: bool = True,
        on_open: Callable[[], object] = lambda: None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            on_open: called each time it opens.
            now: seconds.
        """
        self._is_enabled = is_enabled
        self._on_open = on_open
        self._now = now
        self._failures = 0
        self._open_until: float | None = None
        self._pause = FIRST_PAUSE_SECS
        self._probe: CircuitCall | None = None

    @property
    def is_closed(self) -> bool:
        return self._open_until is None

    def call(self) -> CircuitCall:
        """To be entered around a call, and told how it went.

        Raises:
            CircuitOpenError: it must not be made.
        """
        call = CircuitCall(self)
        if self._open_until is not None:
            if self._probe is not None or self._now() < self._open_until:
                raise CircuitOpenError
            self._probe = call
        return call

    def note_answer(self, call: CircuitCall) -> None:
        if self._probe is call:
            self._probe, self._open_until = None, None
            self._failures, self._pause = 0, FIRST_PAUSE_SECS

    def note_success(self, call: CircuitCall) -> None:
        self.note_answer(call)
        if self.is_closed:
            self._failures = 0

    def note_outage(self, call: CircuitCall) -> None:
        if self._probe is call:
            self._probe = None
            self._pause = min(self._pause * 2, LONGEST_PAUSE_SECS)
            self._open()
        elif self.is_closed:
            self._failures += 1
            if self._failures >= FAILURES_TO_OPEN and self._is_enabled:
                self._open()

    def note_end(self, call: CircuitCall) -> None:
        """A probe that was given up by its caller says nothing: the next call is one."""
        if self._probe is call:
            self._probe = None

    def _open(self) -> None:
        self._open_until = self._now() + self._pause
        self._on_open()


class CircuitCall:
    """One call. Of what it is told, the first verdict counts; leaving the block without one says nothing."""

    def __init__(self, breaker: CircuitBreaker) -> None:
        self._breaker = breaker

    def has_answer(self) -> None:
        """The provider is there, though the answer has only begun."""
        self._breaker.note_answer(self)

    def has_succeeded(self) -> None:
        self._breaker.note_success(self)

    def has_failed(self, *, is_outage: bool) -> None:
        if is_outage:
            self._breaker.note_outage(self)
        else:
            self._breaker.note_answer(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._breaker.note_end(self)

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from shared.attachments.errors import UploadConcurrencyLimitError


class UploadPermits:
    """How many uploads this process handles at a time. Nobody waits for one: who comes too many is sent away."""

    def __init__(self, limit: int) -> None:
        self._free = limit

    @contextmanager
    def hold(self) -> Iterator[None]:
        """
        Raises:
            UploadConcurrencyLimitError: all are held.
        """
        if self._free <= 0:
            raise UploadConcurrencyLimitError
        self._free -= 1
        try:
            yield
        finally:
            self._free += 1

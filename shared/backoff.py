"""How long to wait before the next try."""

from __future__ import annotations

import random
from collections.abc import Iterator


def backoff(*, first: float, longest: float) -> Iterator[float]:
    """Seconds to wait before each further try, for ever: doubling, with jitter so that a fleet spreads out."""
    delay = first
    while True:
        yield delay * random.uniform(0.75, 1.25)  # noqa: S311 (jitter, not a secret)
        delay = min(delay * 2, longest)

"""When a message that could not be delivered is tried again."""

from __future__ import annotations

import random
from datetime import timedelta
from typing import Final

_MOST_DOUBLINGS: Final = 62  # beyond any limit in seconds that makes sense, and far from the end of floats


def retry_delay(failures: int, *, base_secs: float, max_secs: float) -> timedelta:
    """How long to wait after that many failed tries: doubling from the base up to the maximum.

    The upper half of each step is jitter, so that what failed together does not come back together; no wait is shorter
    than the base, nor longer than the maximum.
    """
    longest = min(max_secs, base_secs * 2.0 ** min(failures - 1, _MOST_DOUBLINGS))
    shortest = min(longest, max(base_secs, longest / 2))
    return timedelta(seconds=random.uniform(shortest, longest))  # noqa: S311 (jitter, not a secret)

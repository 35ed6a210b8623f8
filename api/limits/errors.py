"""What a user who reaches a limit is told.

The fields are those of draft-ietf-httpapi-ratelimit-headers-11: `RateLimit-Policy` says what is allowed, `RateLimit`
how little is left of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from shared.errors import ThrottledError, UnavailableError

RETRY_SECS = 5
"""When nobody can say when a stream or turn will end, or the queue be shorter."""


class LimitReachedError(ThrottledError):
    """A limit of the platform; `fields` are headers for the answer."""

    def __init__(self, detail: str, *, retry_after_secs: int, name: str, policy: str) -> None:
        super().__init__(detail, retry_after_secs=retry_after_secs)
        self.fields: Mapping[str, str] = {
            "RateLimit-Policy": f'"{name}";{policy}',
            "RateLimit": f'"{name}";r=0;t={retry_after_secs}',
        }


class QueueFullError(UnavailableError):
    code = "queue_full"
    default_detail = "Too many turns are waiting"

    def __init__(self) -> None:
        super().__init__(retry_after_secs=RETRY_SECS)


def too_many_requests(*, wait_secs: float, burst: int, window_secs: float) -> LimitReachedError:
    return LimitReachedError(
        "Too many requests",
        retry_after_secs=max(1, math.ceil(wait_secs)),
        name="requests",
        policy=f"q={burst};w={max(1, math.ceil(window_secs))}",
    )


def too_many_at_once(what: str, *, most: int) -> LimitReachedError:
    """Args:
    what: `turns` or `streams`.
    """
    return LimitReachedError(
        f"Too many {what} at once", retry_after_secs=RETRY_SECS, name=what, policy=f'q={most};qu="concurrent-requests"'
    )

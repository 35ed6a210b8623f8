"""The one source of the application's time, so that tests can hold it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    def now(self) -> datetime:
        """The current time, aware, in UTC."""
        ...


class SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)  # noqa: TID251 (the one place that may)


def rfc3339(moment: datetime) -> str:
    """`moment` as RFC 3339 UTC with microseconds and a `Z`, the only form the API writes."""
    # isoformat pads the year, which strftime does not on every platform.
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"

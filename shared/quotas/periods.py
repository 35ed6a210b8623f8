"""The calendar that usage is counted by: UTC days and months, from whatever clock the caller is given."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta

from shared.quotas.buckets import PeriodType


def period_start(period: PeriodType, now: datetime) -> date:
    """The first day of the period that `now` lies in."""
    today = now.astimezone(UTC).date()
    return today if period == "daily" else today.replace(day=1)


def next_reset(period: PeriodType, now: datetime) -> datetime:
    """When the next period begins, in UTC: always after `now`."""
    start = period_start(period, now)
    # 31 days after the first lie in the next month, however long this one is.
    following = start + timedelta(days=1) if period == "daily" else (start + timedelta(days=31)).replace(day=1)
    return datetime.combine(following, time(), UTC)

"""Days and months in UTC."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.quotas.buckets import PERIODS, PeriodType
from shared.quotas.periods import next_reset, period_start

MOMENTS = st.datetimes(
    min_value=datetime(1990, 1, 1),  # noqa: DTZ001 (hypothesis adds the zone)
    max_value=datetime(2200, 1, 1),  # noqa: DTZ001
    timezones=st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes))),
)


@pytest.mark.parametrize(
    ("now", "day", "month"),
    [
        ("2026-03-01T00:00:00", "2026-03-02", "2026-04-01"),
        ("2026-03-01T23:59:59.999999", "2026-03-02", "2026-04-01"),
        ("2026-03-31T12:00:00", "2026-04-01", "2026-04-01"),
        ("2026-12-31T23:59:59", "2027-01-01", "2027-01-01"),
        ("2026-02-28T10:00:00", "2026-03-01", "2026-03-01"),
        ("2028-02-28T10:00:00", "2028-02-29", "2028-03-01"),
        ("2028-02-29T10:00:00", "2028-03-01", "2028-03-01"),
        ("2100-02-28T10:00:00", "2100-03-01", "2100-03-01"),
    ],
)
def test_the_next_reset_is_the_next_midnight_and_the_next_first(now: str, day: str, month: str) -> None:
    moment = datetime.fromisoformat(now).replace(tzinfo=UTC)
    assert next_reset("daily", moment) == datetime.fromisoformat(day).replace(tzinfo=UTC)
    assert next_reset("monthly", moment) == datetime.fromisoformat(month).replace(tzinfo=UTC)


def test_periods_are_of_utc_whatever_the_zone_of_the_clock() -> None:
    late = datetime(2026, 3, 31, 23, 30, tzinfo=timezone(timedelta(hours=-5)))
    assert period_start("daily", late) == date(2026, 4, 1)
    assert period_start("monthly", late) == date(2026, 4, 1)


@given(now=MOMENTS, period=st.sampled_from(PERIODS))
def test_a_reset_begins_the_very_next_period(now: datetime, period: PeriodType) -> None:
    reset = next_reset(period, now)
    assert reset > now
    assert reset.utcoffset() == timedelta()
    assert period_start(period, reset) == reset.date() > period_start(period, now)
    assert period_start(period, reset - timedelta(microseconds=1)) == period_start(period, now)

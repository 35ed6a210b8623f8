"""The arithmetic of what is left."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from shared.quotas.buckets import ALL_BUCKETS, BucketKey
from shared.quotas.status import PeriodStatus, QuotaStatus, quota_status, quota_warnings

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
LIMITS = dict.fromkeys(ALL_BUCKETS, 1_000)
PREMIUM_TODAY = BucketKey("daily", "tier:premium")


def status_of(used: dict[BucketKey, int], limits: dict[BucketKey, int] = LIMITS, threshold: int = 80) -> QuotaStatus:
    return quota_status(used, limits, now=NOW, threshold=threshold)


def premium_today(used: int, *, limit: int = 1_000, threshold: int = 80) -> PeriodStatus:
    return status_of({PREMIUM_TODAY: used}, LIMITS | {PREMIUM_TODAY: limit}, threshold).tiers[0].periods[0]


def test_without_usage_everything_remains() -> None:
    status = status_of({})
    assert [(tier.tier, [period.period for period in tier.periods]) for tier in status.tiers] == [
        ("premium", ["daily", "monthly"]),
        ("total", ["daily", "monthly"]),
    ]
    for tier in status.tiers:
        for period in tier.periods:
            assert (period.used_credits_micro, period.remaining_credits_micro) == (0, 1_000)
            assert (period.remaining_percentage, period.warning, period.exhausted) == (100, False, False)


def test_percentages_are_rounded_down() -> None:
    spent = premium_today(1_250, limit=50_000_000)
    assert (spent.remaining_credits_micro, spent.remaining_percentage) == (49_998_750, 99)
    assert (premium_today(991).remaining_percentage, premium_today(991).exhausted) == (0, True)
    assert (premium_today(990).remaining_percentage, premium_today(990).exhausted) == (1, False)


def test_the_threshold_itself_is_a_warning() -> None:
    assert premium_today(800).warning
    assert not premium_today(790).warning
    assert premium_today(791).warning  # 20.9 % are 20 %


def test_what_has_no_limit_is_left_out() -> None:
    limits = LIMITS | {PREMIUM_TODAY: 0, BucketKey("monthly", "tier:premium"): -5, BucketKey("daily", "total"): -1}
    status = status_of({PREMIUM_TODAY: 7}, limits)
    assert [(tier.tier, [period.period for period in tier.periods]) for tier in status.tiers] == [
        ("total", ["monthly"])
    ]
    assert [(item["tier"], item["period"]) for item in quota_warnings(status)] == [("total", "monthly")]


def test_warnings_tell_the_end_of_a_period_only_where_it_matters() -> None:
    warnings = quota_warnings(status_of({PREMIUM_TODAY: 1_000, BucketKey("monthly", "total"): 850}))
    assert warnings == [
        {
            "tier": "premium",
            "period": "daily",
            "remaining_percentage": 0,
            "warning": True,
            "exhausted": True,
            "next_reset": "2026-03-02T00:00:00.000000Z",
        },
        {"tier": "premium", "period": "monthly", "remaining_percentage": 100, "warning": False, "exhausted": False},
        {"tier": "total", "period": "daily", "remaining_percentage": 100, "warning": False, "exhausted": False},
        {
            "tier": "total",
            "period": "monthly",
            "remaining_percentage": 15,
            "warning": True,
            "exhausted": False,
            "next_reset": "2026-04-01T00:00:00.000000Z",
        },
    ]


@given(used=st.integers(0, 10**18), limit=st.integers(1, 10**18), threshold=st.integers(1, 99))
def test_the_arithmetic_of_a_period(used: int, limit: int, threshold: int) -> None:
    period = premium_today(used, limit=limit, threshold=threshold)
    assert period.used_credits_micro == used
    assert 0 <= period.remaining_credits_micro <= limit
    assert period.remaining_credits_micro == limit - used or used > limit
    assert 0 <= period.remaining_percentage <= 100
    assert period.remaining_percentage * limit <= period.remaining_credits_micro * 100
    assert (period.remaining_percentage + 1) * limit > period.remaining_credits_micro * 100
    assert period.exhausted == (period.remaining_percentage == 0)
    assert period.warning == (period.remaining_percentage <= 100 - threshold)
    assert period.warning or not period.exhausted
    assert period.exhausted or used < limit
    assert period.next_reset > NOW


@given(
    used=st.fixed_dictionaries({}, optional={key: st.integers(0, 2_000) for key in ALL_BUCKETS}),
    limits=st.fixed_dictionaries({key: st.integers(-10, 2_000) for key in ALL_BUCKETS}),
)
def test_each_limit_makes_one_entry(used: dict[BucketKey, int], limits: dict[BucketKey, int]) -> None:
    status = status_of(used, limits)
    warnings = quota_warnings(status)
    assert len(warnings) == sum(limit > 0 for limit in limits.values())
    assert all(tier.periods for tier in status.tiers)
    for warning in warnings:
        assert ("next_reset" in warning) == (warning["warning"] or warning["exhausted"])

"""How much of their quotas a user has left, for `GET /quota/status` and the `quota_warnings` of a `done` event.

    used                  spent + reserved
    remaining             max(0, limit - used)
    remaining_percentage  floor(remaining * 100 / limit)
    exhausted             remaining_percentage = 0
    warning               remaining_percentage <= 100 - threshold; whatever is exhausted is in warning

A limit of zero or less makes the tier unavailable in that period: there is nothing to tell, the entry is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID

from sqlalchemy import Date, Select, Uuid, and_, bindparam, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from shared.clock import rfc3339
from shared.quotas.buckets import ALL_BUCKETS, PERIODS, Bucket, BucketKey, PeriodType
from shared.quotas.periods import next_reset, period_start
from shared.quotas.tables import QuotaUsage

StatusTier = Literal["premium", "total"]

_TIERS: Final[tuple[tuple[StatusTier, Bucket], ...]] = (("premium", "tier:premium"), ("total", "total"))


@dataclass(frozen=True, slots=True)
class PeriodStatus:
    period: PeriodType
    limit_credits_micro: int
    used_credits_micro: int
    remaining_credits_micro: int
    remaining_percentage: int
    next_reset: datetime
    warning: bool
    exhausted: bool


@dataclass(frozen=True, slots=True)
class TierStatus:
    """A tier with at least one limited period."""

    tier: StatusTier
    periods: tuple[PeriodStatus, ...]


@dataclass(frozen=True, slots=True)
class QuotaStatus:
    tiers: tuple[TierStatus, ...]
    warning_threshold_pct: int


def quota_status(
    used: Mapping[BucketKey, int], limits: Mapping[BucketKey, int], *, now: datetime, threshold: int
) -> QuotaStatus:
    """The status of every tier and period that has a limit.

    Args:
        used: `spent + reserved` in the periods of `now`; a missing bucket is zero.
        threshold: percent of a limit whose use is worth a warning.
    """
    tiers = []
    for tier, bucket in _TIERS:
        keys = [BucketKey(period, bucket) for period in PERIODS]
        periods = tuple(
            _period_status(key.period, used=used.get(key, 0), limit=limits[key], now=now, threshold=threshold)
            for key in keys
            if limits[key] > 0
        )
        if periods:
            tiers.append(TierStatus(tier, periods))
    return QuotaStatus(tuple(tiers), threshold)


def quota_warnings(status: QuotaStatus) -> list[dict[str, Any]]:
    """The status flattened for the `done` event; when a period ends is told only where that matters."""
    return [_warning(tier.tier, period) for tier in status.tiers for period in tier.periods]


async def load_status(
    session: AsyncSession,
    *,
    tenant_id: UUID,
    user_id: UUID,
    limits: Mapping[BucketKey, int],
    now: datetime,
    threshold: int,
) -> QuotaStatus:
    """The status of a user by their usage rows, in one query."""
    rows = await session.execute(
        _USED,
        {
            "tenant": tenant_id,
            "user": user_id,
            "daily_start": period_start("daily", now),
            "monthly_start": period_start("monthly", now),
        },
    )
    found = {(period, bucket): amount for period, bucket, amount in rows}
    used = {key: found.get(key, 0) for key in ALL_BUCKETS}
    return quota_status(used, limits, now=now, threshold=threshold)


def _period_status(period: PeriodType, *, used: int, limit: int, now: datetime, threshold: int) -> PeriodStatus:
    remaining = max(0, limit - used)
    percentage = remaining * 100 // limit
    return PeriodStatus(
        period=period,
        limit_credits_micro=limit,
        used_credits_micro=used,
        remaining_credits_micro=remaining,
        remaining_percentage=percentage,
        next_reset=next_reset(period, now),
        warning=percentage <= 100 - threshold,
        exhausted=percentage == 0,
    )


def _warning(tier: StatusTier, period: PeriodStatus) -> dict[str, Any]:
    warning: dict[str, Any] = {
        "tier": tier,
        "period": period.period,
        "remaining_percentage": period.remaining_percentage,
        "warning": period.warning,
        "exhausted": period.exhausted,
    }
    if period.warning or period.exhausted:
        warning["next_reset"] = rfc3339(period.next_reset)
    return warning


def _used() -> Select[str, str, int]:
    def is_period(period: PeriodType) -> Any:
        return and_(
            QuotaUsage.period_type == period,
            QuotaUsage.period_start == bindparam(f"{period}_start", type_=Date),
        )

    return select(
        QuotaUsage.period_type,
        QuotaUsage.bucket,
        QuotaUsage.spent_credits_micro + QuotaUsage.reserved_credits_micro,
    ).where(
        QuotaUsage.tenant_id == bindparam("tenant", type_=Uuid),
        QuotaUsage.user_id == bindparam("user", type_=Uuid),
        or_(is_period("daily"), is_period("monthly")),
    )


_USED: Final = _used()

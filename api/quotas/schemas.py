from __future__ import annotations

from typing import Annotated, Self

from pydantic import BaseModel, Field

from api.schemas import Timestamp
from shared.quotas.buckets import PeriodType
from shared.quotas.status import PeriodStatus, QuotaStatus, StatusTier, TierStatus


class QuotaPeriod(BaseModel):
    period: PeriodType
    limit_credits_micro: int
    used_credits_micro: Annotated[int, Field(description="Spent, and set aside for turns that are running.")]
    remaining_credits_micro: int
    remaining_percentage: Annotated[int, Field(ge=0, le=100, description="Of the limit, rounded down.")]
    next_reset: Timestamp
    warning: bool
    exhausted: bool

    @classmethod
    def of(cls, status: PeriodStatus) -> Self:
        return cls(
            period=status.period,
            limit_credits_micro=status.limit_credits_micro,
            used_credits_micro=status.used_credits_micro,
            remaining_credits_micro=status.remaining_credits_micro,
            remaining_percentage=status.remaining_percentage,
            next_reset=status.next_reset,
            warning=status.warning,
            exhausted=status.exhausted,
        )


class QuotaTier(BaseModel):
    tier: Annotated[StatusTier, Field(description="`total` caps the models of all tiers together.")]
    periods: tuple[QuotaPeriod, ...]

    @classmethod
    def of(cls, status: TierStatus) -> Self:
        return cls(tier=status.tier, periods=tuple(QuotaPeriod.of(period) for period in status.periods))


class QuotaStatusAnswer(BaseModel):
    tiers: tuple[QuotaTier, ...]
    warning_threshold_pct: int

    @classmethod
    def of(cls, status: QuotaStatus) -> Self:
        return cls(
            tiers=tuple(QuotaTier.of(tier) for tier in status.tiers),
            warning_threshold_pct=status.warning_threshold_pct,
        )

"""Where credits are counted: two buckets in two UTC calendar periods, each with a limit of its own.

total          every turn; its limits are those of the standard tier: the overall cap
tier:premium   turns on a premium model, beside `total`; a cap within the cap
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from shared.model_catalog.catalog import Tier

PeriodType = Literal["daily", "monthly"]
Bucket = Literal["total", "tier:premium"]


class BucketKey(NamedTuple):
    """A bucket in a period. They sort in the order in which every transaction locks their rows."""

    period: PeriodType
    bucket: Bucket


PERIODS: Final[tuple[PeriodType, ...]] = ("daily", "monthly")
ALL_BUCKETS: Final = tuple(sorted(BucketKey(period, name) for period in PERIODS for name in ("total", "tier:premium")))
TOTAL: Final = tuple(key for key in ALL_BUCKETS if key.bucket == "total")


def buckets_of(tier: Tier) -> tuple[BucketKey, ...]:
    """The buckets that a turn on a model of `tier` is charged to, in the order of their locks."""
    return ALL_BUCKETS if tier == "premium" else TOTAL

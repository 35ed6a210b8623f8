"""Whose limits a user has."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from shared.ids import new_uuid4
from shared.model_catalog.catalog import Catalog
from shared.policy.limits import limits_of
from shared.quotas.buckets import BucketKey
from tests.support.catalogs import acceptance_catalog

TENANT, USER = new_uuid4(), new_uuid4()
DEFAULTS = {
    BucketKey("daily", "total"): 100_000_000,
    BucketKey("monthly", "total"): 1_000_000_000,
    BucketKey("daily", "tier:premium"): 50_000_000,
    BucketKey("monthly", "tier:premium"): 500_000_000,
}


def amounts(daily: int) -> dict[str, int]:
    return {"limit_daily_credits_micro": daily, "limit_monthly_credits_micro": daily * 10}


def entry(daily: int, *, tenant: UUID | None = None, user: UUID | None = None, tier: str = "standard") -> Any:
    return {"tenant_id": tenant, "user_id": user, tier: amounts(daily)}


ANYBODY = entry(1)
OF_TENANT = entry(2, tenant=TENANT)
OF_USER = entry(3, user=USER)
OF_BOTH = entry(4, tenant=TENANT, user=USER)
OF_OTHERS = [
    entry(90, tenant=new_uuid4()),
    entry(91, user=new_uuid4()),
    entry(92, tenant=TENANT, user=new_uuid4()),
    entry(93, tenant=new_uuid4(), user=USER),
]


def daily_total(*entries: Any) -> int:
    catalog = Catalog.model_validate(acceptance_catalog() | {"user_limits": entries})
    return limits_of(catalog, tenant_id=TENANT, user_id=USER)[BucketKey("daily", "total")]


def test_without_an_entry_the_defaults_hold() -> None:
    catalog = Catalog.model_validate(acceptance_catalog() | {"user_limits": OF_OTHERS})
    assert limits_of(catalog, tenant_id=TENANT, user_id=USER) == DEFAULTS


@pytest.mark.parametrize(
    ("entries", "daily"),
    [
        ([ANYBODY], 1),
        ([ANYBODY, OF_TENANT], 2),
        ([OF_TENANT, OF_USER], 3),
        ([OF_USER, OF_BOTH, OF_TENANT, ANYBODY], 4),
        ([entry(5, tenant=TENANT), OF_TENANT], 5),
    ],
)
def test_the_most_specific_entry_counts_wherever_it_stands(entries: list[Any], daily: int) -> None:
    assert daily_total(*entries, *OF_OTHERS) == daily
    assert daily_total(*OF_OTHERS, *entries) == daily


def test_each_tier_is_looked_up_by_itself() -> None:
    entries = [entry(7, user=USER, tier="premium"), entry(8, tenant=TENANT)]
    catalog = Catalog.model_validate(acceptance_catalog() | {"user_limits": entries})
    assert limits_of(catalog, tenant_id=TENANT, user_id=USER) == {
        BucketKey("daily", "total"): 8,
        BucketKey("monthly", "total"): 80,
        BucketKey("daily", "tier:premium"): 7,
        BucketKey("monthly", "tier:premium"): 70,
    }

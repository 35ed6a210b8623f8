"""What a user may use under a policy: its default limits, replaced by its most specific entry for the user."""

from __future__ import annotations

from uuid import UUID

from shared.model_catalog.catalog import Catalog, UserLimits
from shared.policy.source import Limits
from shared.quotas.buckets import BucketKey


def limits_of(catalog: Catalog, *, tenant_id: UUID, user_id: UUID) -> Limits:
    """A user of a tenant goes before the user anywhere, and that before the tenant; each tier by itself.

    An entry that names nobody is for everybody. Of entries that are equally specific the first one counts.
    """
    matching = [entry for entry in catalog.user_limits if _matches(entry, tenant_id, user_id)]
    matching.sort(key=_specificity, reverse=True)  # stable: equal ones stay in the order of the file
    standard = next((entry.standard for entry in matching if entry.standard), catalog.default_standard_limits)
    premium = next((entry.premium for entry in matching if entry.premium), catalog.default_premium_limits)
    return {
        BucketKey("daily", "total"): standard.limit_daily_credits_micro,
        BucketKey("monthly", "total"): standard.limit_monthly_credits_micro,
        BucketKey("daily", "tier:premium"): premium.limit_daily_credits_micro,
        BucketKey("monthly", "tier:premium"): premium.limit_monthly_credits_micro,
    }


def _matches(entry: UserLimits, tenant_id: UUID, user_id: UUID) -> bool:
    return entry.tenant_id in (None, tenant_id) and entry.user_id in (None, user_id)


def _specificity(entry: UserLimits) -> tuple[bool, bool]:
    return entry.user_id is not None, entry.tenant_id is not None

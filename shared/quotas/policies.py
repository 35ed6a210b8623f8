"""The policies that turns are accepted and settled under, as this part of the product needs them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from shared.model_catalog.catalog import Catalog
from shared.model_catalog.holder import CatalogHolder
from shared.quotas.buckets import BucketKey


class Policies(Protocol):
    async def snapshot(self, version: int) -> Catalog:
        """
        Raises:
            LookupError: there is no such version.
        """
        ...

    async def limits(self, _tenant_id: UUID, _user_id: UUID, version: int) -> Mapping[BucketKey, int]: ...


@dataclass(frozen=True, slots=True)
class CurrentPolicy:
    holder: CatalogHolder

    async def snapshot(self, version: int) -> Catalog:
        catalog = self.holder.current
        if catalog.policy_version != version:
            raise LookupError(f"policy version {version} is unknown")
        return catalog

    async def limits(self, _tenant_id: UUID, _user_id: UUID, version: int) -> Mapping[BucketKey, int]:
        catalog = await self.snapshot(version)
        standard, premium = catalog.default_standard_limits, catalog.default_premium_limits
        return {
            BucketKey("daily", "total"): standard.limit_daily_credits_micro,
            BucketKey("monthly", "total"): standard.limit_monthly_credits_micro,
            BucketKey("daily", "tier:premium"): premium.limit_daily_credits_micro,
            BucketKey("monthly", "tier:premium"): premium.limit_monthly_credits_micro,
        }

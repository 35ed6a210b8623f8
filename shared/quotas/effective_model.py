"""Which model a turn really uses: decided once, before the turn exists, and stored with it.

The cascade goes from premium to standard. Pure: what is affordable is the caller's knowledge.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from shared.model_catalog.catalog import Catalog, CatalogModel, Tier
from shared.quotas.errors import QuotaExceededError

DowngradeReason = Literal["premium_quota_exhausted", "force_standard_tier", "disable_premium_tier", "model_disabled"]


@dataclass(frozen=True, slots=True)
class ModelDecision:
    model: CatalogModel
    decision: Literal["allow", "downgrade"]
    downgrade_from: str | None = None
    downgrade_reason: DowngradeReason | None = None


def decide_model(catalog: Catalog, selected_id: str, *, is_affordable: Callable[[CatalogModel], bool]) -> ModelDecision:
    """The selected model, or what stands in for it and why; the first reason met is the one that is told.

    Raises:
        QuotaExceededError: no tier has an enabled model that is affordable.
    """
    selected = catalog.find_model(selected_id)
    reason: DowngradeReason | None = None if selected is not None and selected.enabled else "model_disabled"
    tiers: tuple[Tier, ...] = (
        ("premium", "standard") if selected is None or selected.tier == "premium" else ("standard",)
    )
    for tier in tiers:
        switch = _switch_against(tier, catalog)
        if switch is not None:
            reason = reason or switch
            continue
        is_selectable = selected is not None and selected.enabled and selected.tier == tier
        candidate = selected if is_selectable else catalog.default_of(tier)
        if candidate is None:
            continue
        if is_affordable(candidate):
            if candidate is selected and reason is None:
                return ModelDecision(candidate, "allow")
            return ModelDecision(candidate, "downgrade", selected_id, reason)
        if tier == "premium":
            reason = reason or "premium_quota_exhausted"
    raise QuotaExceededError(quota_scope="tokens")


def _switch_against(tier: Tier, catalog: Catalog) -> DowngradeReason | None:
    if tier == "standard":
        return None
    if catalog.kill_switches.force_standard_tier:
        return "force_standard_tier"
    return "disable_premium_tier" if catalog.kill_switches.disable_premium_tier else None

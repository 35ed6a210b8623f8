"""Which model a turn really uses, and what is said about it."""

from __future__ import annotations

from typing import Any

import pytest

from shared.model_catalog.catalog import Catalog, CatalogModel
from shared.quotas.effective_model import ModelDecision, decide_model
from shared.quotas.errors import QuotaExceededError
from tests.support.catalogs import DISABLED, MINI, PREMIUM, STANDARD, acceptance_catalog


def decide(selected: str, *, broke_for: str = "", **switches: bool) -> ModelDecision:
    """`broke_for` is a tier that cannot be paid for."""
    tree: dict[str, Any] = acceptance_catalog() | {"kill_switches": switches}

    def is_affordable(model: CatalogModel) -> bool:
        return model.tier not in broke_for.split()

    return decide_model(Catalog.model_validate(tree), selected, is_affordable=is_affordable)


@pytest.mark.parametrize("selected", [PREMIUM, STANDARD, MINI])
def test_the_selected_model_is_used_if_nothing_speaks_against_it(selected: str) -> None:
    decision = decide(selected)
    assert (decision.model.id, decision.decision) == (selected, "allow")
    assert (decision.downgrade_from, decision.downgrade_reason) == (None, None)


@pytest.mark.parametrize(
    ("selected", "options", "effective", "reason"),
    [
        (PREMIUM, {"broke_for": "premium"}, STANDARD, "premium_quota_exhausted"),
        (PREMIUM, {"force_standard_tier": True}, STANDARD, "force_standard_tier"),
        (PREMIUM, {"disable_premium_tier": True}, STANDARD, "disable_premium_tier"),
        (PREMIUM, {"force_standard_tier": True, "disable_premium_tier": True}, STANDARD, "force_standard_tier"),
        (DISABLED, {}, STANDARD, "model_disabled"),
        ("gone", {}, PREMIUM, "model_disabled"),
        ("gone", {"broke_for": "premium"}, STANDARD, "model_disabled"),
    ],
)
def test_a_downgrade_tells_its_first_reason(
    selected: str, options: dict[str, Any], effective: str, reason: str
) -> None:
    decision = decide(selected, **options)
    assert (decision.model.id, decision.decision) == (effective, "downgrade")
    assert (decision.downgrade_from, decision.downgrade_reason) == (selected, reason)


@pytest.mark.parametrize(("selected", "broke_for"), [(PREMIUM, "premium standard"), (STANDARD, "standard")])
def test_without_an_affordable_tier_the_turn_is_refused(selected: str, broke_for: str) -> None:
    """A standard selection is never raised to premium."""
    with pytest.raises(QuotaExceededError) as refused:
        decide(selected, broke_for=broke_for)
    assert refused.value.quota_scope == "tokens"

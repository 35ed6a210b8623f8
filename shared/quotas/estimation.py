"""How many tokens a text will cost, before the provider counts them. Integer arithmetic, rounded up."""

from __future__ import annotations

from shared.model_catalog.catalog import CatalogModel
from shared.quotas.budgets import EstimationBudgets
from shared.settings import Settings


def budgets_of(model: CatalogModel, settings: Settings) -> EstimationBudgets:
    """The model's budgets, member by member over the service's."""
    return settings.estimation_budgets.overridden_by(model.estimation_budgets)


def max_output_tokens(model: CatalogModel, settings: Settings) -> int:
    """The hard cap of one answer: the smaller of the model's and the service's."""
    return min(model.max_output_tokens, settings.streaming.max_output_tokens)


def estimate_text(text: str, budgets: EstimationBudgets) -> int:
    """Tokens of one text: bytes over a conservative ratio, a fixed overhead, and a margin on both."""
    tokens = _ceil_div(len(text.encode("utf-8")), budgets.bytes_per_token_conservative)
    base = tokens + budgets.fixed_overhead_tokens
    return _ceil_div(base * (100 + budgets.safety_margin_pct), 100)


def _ceil_div(dividend: int, divisor: int) -> int:
    return -(-dividend // divisor)

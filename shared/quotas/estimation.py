"""How many tokens a turn will cost, before the provider counts them. Integer arithmetic, rounded up.

base  = ceil(UTF-8 bytes / bytes_per_token_conservative) + fixed_overhead_tokens
text  = ceil(base * (100 + safety_margin_pct) / 100)
input = text + images * image_token_budget + one surcharge for each tool that is offered + prior context

Prior context counts as far as the bounds of what can be charged leave room for it.
"""

from __future__ import annotations

from dataclasses import dataclass

from shared.model_catalog.catalog import CatalogModel
from shared.quotas.budgets import EstimationBudgets
from shared.quotas.credits import MAX_TOKENS, ceil_div
from shared.settings import Settings
from shared.turns.tools import NO_TOOLS, IncludedTools


@dataclass(frozen=True, slots=True)
class Included:
    """What goes to the model beside the user's text.

    Attributes:
        prior_context_tokens: what the newest answer of the chat has cost, input and output: this turn has it to read.
    """

    images: int = 0
    tools: IncludedTools = NO_TOOLS
    prior_context_tokens: int = 0


def budgets_of(model: CatalogModel, settings: Settings) -> EstimationBudgets:
    """The model's budgets, member by member over the service's."""
    return settings.estimation_budgets.overridden_by(model.estimation_budgets)


def max_output_tokens(model: CatalogModel, settings: Settings) -> int:
    """The hard cap of one answer: the smaller of the model's and the service's."""
    return min(model.max_output_tokens, settings.streaming.max_output_tokens)


def estimate_text(text: str, budgets: EstimationBudgets) -> int:
    """Tokens of one text: bytes over a conservative ratio, a fixed overhead, and a margin on both."""
    base = ceil_div(len(text.encode("utf-8")), budgets.bytes_per_token_conservative) + budgets.fixed_overhead_tokens
    return ceil_div(base * (100 + budgets.safety_margin_pct), 100)


def estimate_input(text: str, included: Included, budgets: EstimationBudgets) -> int:
    """Tokens of everything the model is to read."""
    surcharge = included.images * budgets.image_token_budget + included.tools.surcharge(budgets)
    own = estimate_text(text, budgets) + surcharge
    # What an earlier answer is said to have used must not close its chat to every later turn.
    return own + min(included.prior_context_tokens, max(0, MAX_TOKENS - own))

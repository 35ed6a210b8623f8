"""What the model is told: instructions, the recent messages that fit, the user's message. Pure and deterministic.

The API asks `check_mandatory` before a turn exists; the worker asks it again and then fills what is left of the budget
with history, newest first, stopping at the first message that does not fit. No text is ever cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from shared.model_catalog.catalog import CatalogModel
from shared.quotas.budgets import EstimationBudgets
from shared.quotas.estimation import estimate_text
from shared.turns.errors import ContextBudgetExceededError


@dataclass(frozen=True, slots=True)
class PlannedMessage:
    role: Literal["user", "assistant"]
    text: str


@dataclass(frozen=True, slots=True)
class ContextPlan:
    """`messages` is oldest first and ends with the user's message of this turn."""

    instructions: str | None
    messages: tuple[PlannedMessage, ...]
    assembled_tokens: int
    messages_truncated: bool


def check_mandatory(
    *, model: CatalogModel, budgets: EstimationBudgets, max_output_tokens: int, user_text: str, images: int = 0
) -> int:
    """Tokens that remain for history once the items that cannot be left out are in.

    Raises:
        ContextBudgetExceededError: they do not fit.
    """
    deductions = max_output_tokens + budgets.fixed_overhead_tokens
    available = min(model.context_window - deductions, model.max_input_tokens)
    mandatory = estimate_text(user_text, budgets) + images * budgets.image_token_budget
    if instructions_of(model):
        mandatory += estimate_text(model.system_prompt, budgets)
    if deductions >= model.context_window or mandatory > available:
        raise ContextBudgetExceededError(required=mandatory, available=max(available, 0))
    return available - mandatory


def plan_context(
    *,
    model: CatalogModel,
    budgets: EstimationBudgets,
    max_output_tokens: int,
    recent: Sequence[PlannedMessage],
    user_text: str,
) -> ContextPlan:
    """Build the plan; `recent` is oldest first and holds what came before the user's message.

    Raises:
        ContextBudgetExceededError: the mandatory items do not fit.
    """
    remaining = check_mandatory(model=model, budgets=budgets, max_output_tokens=max_output_tokens, user_text=user_text)
    available = min(model.context_window - max_output_tokens - budgets.fixed_overhead_tokens, model.max_input_tokens)
    kept: list[PlannedMessage] = []
    for message in reversed(recent):
        tokens = estimate_text(message.text, budgets)
        if tokens > remaining:
            break
        remaining -= tokens
        kept.append(message)
    kept.reverse()
    return ContextPlan(
        instructions=instructions_of(model),
        messages=(*kept, PlannedMessage("user", user_text)),
        assembled_tokens=available - remaining,
        messages_truncated=len(kept) < len(recent),
    )


def instructions_of(model: CatalogModel) -> str | None:
    return model.system_prompt or None

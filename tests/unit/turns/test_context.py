"""What the model is told: within budget, in order, newest first when it gets tight."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.model_catalog.catalog import Catalog, CatalogModel
from shared.quotas.budgets import EstimationBudgets
from shared.quotas.estimation import estimate_text
from shared.turns.context import ContextPlan, PlannedMessage, check_mandatory, plan_context
from shared.turns.errors import ContextBudgetExceededError
from tests.support.catalogs import STANDARD, acceptance_catalog

BUDGETS = EstimationBudgets(fixed_overhead_tokens=10)
MAX_OUTPUT = 100

texts = st.text(max_size=200)
messages = st.lists(st.builds(PlannedMessage, st.sampled_from(["user", "assistant"]), texts), max_size=12)


def a_model(*, window: int = 10_000, max_input: int = 10_000, system_prompt: str = "") -> CatalogModel:
    model = Catalog.model_validate(acceptance_catalog()).find_model(STANDARD)
    assert model is not None
    changes = {"context_window": window, "max_input_tokens": max_input, "system_prompt": system_prompt}
    return model.model_copy(update=changes)


def plan(recent: list[PlannedMessage], *, text: str = "?", **changes: int | str) -> ContextPlan:
    return plan_context(
        model=a_model(**changes),  # type: ignore[arg-type]
        budgets=BUDGETS,
        max_output_tokens=MAX_OUTPUT,
        recent=recent,
        user_text=text,
    )


@given(messages, texts, st.integers(150, 2_000))
def test_a_plan_never_exceeds_its_budget(recent: list[PlannedMessage], text: str, window: int) -> None:
    """What is sent fits beside the answer; the user's message is always in it, and last."""
    try:
        made = plan(recent, text=text, window=window)
    except ContextBudgetExceededError:
        assert estimate_text(text, BUDGETS) > window - MAX_OUTPUT - BUDGETS.fixed_overhead_tokens
        return
    assert sum(estimate_text(message.text, BUDGETS) for message in made.messages) == made.assembled_tokens
    assert made.assembled_tokens <= window - MAX_OUTPUT - BUDGETS.fixed_overhead_tokens
    assert made.messages[-1] == PlannedMessage("user", text)


@given(messages, st.integers(150, 2_000))
def test_history_is_cut_from_its_beginning_only(recent: list[PlannedMessage], window: int) -> None:
    """What is kept is the newest part, whole messages, in order; and it is said if something was left out."""
    kept = list(plan(recent, window=window).messages[:-1])
    assert kept == recent[len(recent) - len(kept) :]
    assert plan(recent, window=window).messages_truncated == (len(kept) < len(recent))


@given(messages, st.integers(150, 2_000), st.integers(0, 500))
def test_a_larger_budget_keeps_no_less(recent: list[PlannedMessage], window: int, more: int) -> None:
    assert len(plan(recent, window=window + more).messages) >= len(plan(recent, window=window).messages)


def test_instructions_are_mandatory() -> None:
    assert plan([], system_prompt="Be kind.").instructions == "Be kind."
    assert plan([]).instructions is None
    with pytest.raises(ContextBudgetExceededError):
        plan([], system_prompt="x" * 10_000, window=1_000)


def test_no_room_beside_the_answer_is_refused() -> None:
    with pytest.raises(ContextBudgetExceededError, match="0 are available"):
        check_mandatory(model=a_model(window=100), budgets=BUDGETS, max_output_tokens=MAX_OUTPUT, user_text="?")

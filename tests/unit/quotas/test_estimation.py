"""How many tokens a text is taken for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shared.quotas.budgets import EstimationBudgetOverrides, EstimationBudgets
from shared.quotas.credits import MAX_TOKENS
from shared.quotas.estimation import Included, estimate_input, estimate_text
from shared.turns.tools import IncludedTools

budgets = st.builds(
    EstimationBudgets,
    bytes_per_token_conservative=st.integers(1, 8),
    fixed_overhead_tokens=st.integers(0, 1_000),
    safety_margin_pct=st.integers(0, 100),
)


def test_the_worked_example() -> None:
    """2 000 bytes at 4 a token, 500 overhead, 10 % margin: 1 100."""
    assert estimate_text("x" * 2_000, EstimationBudgets(fixed_overhead_tokens=500)) == 1_100


@given(st.text(), budgets)
def test_an_estimate_is_rounded_up(text: str, budget: EstimationBudgets) -> None:
    exact = (len(text.encode()) / budget.bytes_per_token_conservative + budget.fixed_overhead_tokens) * (
        1 + budget.safety_margin_pct / 100
    )
    estimate = estimate_text(text, budget)
    assert exact - 1e-6 <= estimate < exact + 3


@given(st.text(), st.text(), budgets)
def test_more_text_never_costs_less(text: str, more: str, budget: EstimationBudgets) -> None:
    assert estimate_text(text + more, budget) >= estimate_text(text, budget)


def test_a_model_s_budgets_replace_the_service_s_member_by_member() -> None:
    service = EstimationBudgets(fixed_overhead_tokens=7, safety_margin_pct=20)
    merged = service.overridden_by(EstimationBudgetOverrides(fixed_overhead_tokens=0))
    assert (merged.fixed_overhead_tokens, merged.safety_margin_pct) == (0, 20)
    assert service.overridden_by(None) is service


def test_everything_the_model_reads_is_estimated() -> None:
    """2 000 bytes, one ready document, an answer of 1 700 tokens before: 3 000; then images and the other tools."""
    budget = EstimationBudgets(fixed_overhead_tokens=500, tool_surcharge_tokens=200)
    text, files = "x" * 2_000, IncludedTools(file_search=True)
    assert estimate_input(text, Included(tools=files, prior_context_tokens=1_700), budget) == 3_000
    everything = IncludedTools(file_search=True, web_search=True, code_interpreter=True)
    assert estimate_input(text, Included(2, everything, 1_700), budget) == 3_000 + 2 * 1_000 + 500 + 1_000


def test_an_absurd_answer_before_leaves_the_estimate_within_bounds() -> None:
    text, budget = "x" * 2_000, EstimationBudgets(fixed_overhead_tokens=500)
    for prior in (MAX_TOKENS - 1_100, MAX_TOKENS, 2 * MAX_TOKENS):
        assert estimate_input(text, Included(prior_context_tokens=prior), budget) == MAX_TOKENS
    assert estimate_input(text, Included(prior_context_tokens=MAX_TOKENS - 1_101), budget) == MAX_TOKENS - 1
    # Its own surcharges are another matter: they are configured, and out of bounds they are an error.
    costly = EstimationBudgets(image_token_budget=MAX_TOKENS)
    assert estimate_input("", Included(images=2, prior_context_tokens=7), costly) > 2 * MAX_TOKENS


@given(st.text(), budgets, st.integers(0, 4), st.integers(0, 10**6), st.tuples(*[st.booleans()] * 3))
def test_nothing_that_is_added_makes_it_less(
    text: str, budget: EstimationBudgets, images: int, prior: int, tools: tuple[bool, bool, bool]
) -> None:
    bare = estimate_input(text, Included(), budget)
    assert bare == estimate_text(text, budget)
    assert estimate_input(text, Included(images, IncludedTools(*tools), prior), budget) >= bare + prior

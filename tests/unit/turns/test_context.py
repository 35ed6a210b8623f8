"""What the model is told: within budget, in order, newest first when it gets tight."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.model_catalog.catalog import Catalog, CatalogModel
from shared.quotas.budgets import EstimationBudgets
from shared.quotas.estimation import estimate_text
from shared.settings import ContextSettings
from shared.turns.context import (
    ContextPlan,
    DocumentSummary,
    PlannedMessage,
    check_mandatory,
    plan_context,
    summary_message,
)
from shared.turns.errors import ContextBudgetExceededError
from shared.turns.tools import NO_TOOLS, IncludedTools
from tests.support.catalogs import STANDARD, acceptance_catalog

BUDGETS = EstimationBudgets(
    fixed_overhead_tokens=10,
    image_token_budget=100,
    tool_surcharge_tokens=20,
    web_search_surcharge_tokens=30,
    code_interpreter_surcharge_tokens=40,
)
GUARDS = ContextSettings(web_search_guard="Search rarely.", file_search_guard="Look into the files.")
MAX_OUTPUT = 100

texts = st.text(max_size=200)
messages = st.lists(st.builds(PlannedMessage, st.sampled_from(["user", "assistant"]), texts), max_size=12)
documents = st.lists(st.builds(DocumentSummary, st.text(min_size=1, max_size=20), texts), max_size=4)
tools = st.builds(IncludedTools, st.booleans(), st.booleans(), st.booleans())
windows = st.integers(150, 2_000)
states = st.fixed_dictionaries(
    {
        "recent": messages,
        "text": texts,
        "images": st.integers(0, 4),
        "tools": tools,
        "summary": st.none() | texts,
        "documents": documents,
        "system_prompt": st.sampled_from(["", "Be kind."]),
    }
)


def a_model(*, window: int = 10_000, max_input: int = 10_000, system_prompt: str = "") -> CatalogModel:
    model = Catalog.model_validate(acceptance_catalog()).find_model(STANDARD)
    assert model is not None
    changes = {"context_window": window, "max_input_tokens": max_input, "system_prompt": system_prompt}
    return model.model_copy(update=changes)


def plan(
    recent: list[PlannedMessage],
    *,
    text: str = "?",
    window: int = 10_000,
    max_input: int = 10_000,
    system_prompt: str = "",
    **members: Any,
) -> ContextPlan:
    return plan_context(
        model=a_model(window=window, max_input=max_input, system_prompt=system_prompt),
        budgets=BUDGETS,
        max_output_tokens=MAX_OUTPUT,
        recent=recent,
        user_text=text,
        guards=GUARDS,
        **members,
    )


def cost(made: ContextPlan, *, images: int = 0) -> int:
    texts = [message.text for message in made.messages] + ([made.instructions] if made.instructions else [])
    return sum(estimate_text(text, BUDGETS) for text in texts) + images * BUDGETS.image_token_budget


@given(states, windows, windows)
def test_a_plan_never_exceeds_its_budget(state: dict[str, Any], window: int, max_input: int) -> None:
    """What is sent fits beside the answer and the tools; the mandatory items are in it, the user's message last."""
    available = min(window - MAX_OUTPUT - state["tools"].surcharge(BUDGETS) - BUDGETS.fixed_overhead_tokens, max_input)
    try:
        made = plan(**state, window=window, max_input=max_input)
    except ContextBudgetExceededError:
        mandatory = plan(**{**state, "recent": [], "summary": None, "documents": []})
        assert mandatory.assembled_tokens > available
        return
    assert cost(made, images=state["images"]) == made.assembled_tokens <= available
    assert made.messages[-1] == PlannedMessage("user", state["text"])
    assert ("Be kind." in (made.instructions or "")) == bool(state["system_prompt"])


@given(states, windows)
def test_the_check_before_a_turn_and_the_plan_agree(state: dict[str, Any], window: int) -> None:
    """What the API lets pass the worker can build, and the other way round."""

    def is_refused(check: Any) -> bool:
        try:
            check()
        except ContextBudgetExceededError:
            return True
        return False

    assert is_refused(lambda: plan(**state, window=window)) == is_refused(
        lambda: check_mandatory(
            model=a_model(window=window, system_prompt=state["system_prompt"]),
            budgets=BUDGETS,
            max_output_tokens=MAX_OUTPUT,
            user_text=state["text"],
            images=state["images"],
            tools=state["tools"],
            guards=GUARDS,
        )
    )


@given(states)
def test_everything_is_in_its_order(state: dict[str, Any]) -> None:
    """Summary, documents, recent messages oldest first, the user's message."""
    made = plan(**state, window=100_000, max_input=100_000)
    expected = [summary_message(state["summary"])] if state["summary"] is not None else []
    rest = list(made.messages[len(expected) :])
    assert list(made.messages[: len(expected)]) == expected
    if state["documents"]:
        listing = rest.pop(0)
        assert listing.role == "user"
        assert all(f"{document.filename}: {document.text}" in listing.text for document in state["documents"])
    assert rest == [*state["recent"], PlannedMessage("user", state["text"])]
    assert (made.left_out, made.messages_truncated) == ((), False)


@given(messages, windows)
def test_history_is_cut_from_its_beginning_only(recent: list[PlannedMessage], window: int) -> None:
    """What is kept is the newest part, whole messages, in order; and it is said if something was left out."""
    made = plan(recent, window=window)
    kept = list(made.messages[:-1])
    assert kept == recent[len(recent) - len(kept) :]
    assert made.messages_truncated == (len(kept) < len(recent)) == ("recent_messages" in made.left_out)


@given(states, windows, st.integers(0, 500))
def test_a_larger_budget_keeps_no_less(state: dict[str, Any], window: int, more: int) -> None:
    """In the order in which items are served: more of the first never means less of it, and so on."""

    def kept(window: int) -> tuple[bool, int, int]:
        made = plan(**state, window=window)
        has_summary = state["summary"] is not None and "thread_summary" not in made.left_out
        listing = next((message.text for message in made.messages if "documents are part" in message.text), "")
        recent = len(made.messages) - 1 - has_summary - bool(listing)
        return has_summary, recent, len(listing)

    try:
        small = kept(window)
    except ContextBudgetExceededError:
        return
    assert kept(window + more) >= small


@given(states, windows)
def test_the_same_state_gives_the_same_plan(state: dict[str, Any], window: int) -> None:
    with contextlib.suppress(ContextBudgetExceededError):
        assert plan(**copy.deepcopy(state), window=window) == plan(**state, window=window)


def test_a_summary_that_does_not_fit_makes_room_for_messages() -> None:
    made = plan([PlannedMessage("user", "kept")], summary="x" * 10_000, window=1_000)
    assert [message.text for message in made.messages] == ["kept", "?"]
    assert (made.left_out, made.messages_truncated) == (("thread_summary",), False)


def test_instructions_are_mandatory() -> None:
    assert plan([], system_prompt="Be kind.").instructions == "Be kind."
    assert plan([]).instructions is None
    with pytest.raises(ContextBudgetExceededError):
        plan([], system_prompt="x" * 10_000, window=1_000)


def test_guards_come_with_their_tools_only() -> None:
    everything = IncludedTools(file_search=True, web_search=True, code_interpreter=True)
    assert plan([], system_prompt="Be kind.", tools=everything).instructions == (
        "Be kind.\n\nSearch rarely.\n\nLook into the files."
    )
    assert plan([], tools=IncludedTools(file_search=True)).instructions == "Look into the files."
    assert plan([], tools=IncludedTools(code_interpreter=True)).instructions is None


def test_no_room_beside_the_answer_is_refused() -> None:
    with pytest.raises(ContextBudgetExceededError, match="0 are available"):
        check_mandatory(model=a_model(window=100), budgets=BUDGETS, max_output_tokens=MAX_OUTPUT, user_text="?")


@pytest.mark.parametrize(("images", "included"), [(0, NO_TOOLS), (3, NO_TOOLS), (0, IncludedTools(True, True, True))])
def test_images_and_tools_take_their_room(images: int, included: IncludedTools) -> None:
    left = check_mandatory(
        model=a_model(window=1_000),
        budgets=BUDGETS,
        max_output_tokens=MAX_OUTPUT,
        user_text="abcd",
        images=images,
        tools=included,
        guards=ContextSettings(web_search_guard="", file_search_guard=""),
    )
    # 11 tokens of text with a tenth on top, rounded up.
    assert left == 1_000 - MAX_OUTPUT - 10 - included.surcharge(BUDGETS) - 13 - 100 * images

"""Which tools a turn has, and what they cost."""

from __future__ import annotations

import itertools

import pytest

from shared.model_catalog.catalog import Catalog, CatalogModel, KillSwitches, ProviderKind
from shared.quotas.budgets import EstimationBudgets
from shared.turns.tools import NO_TOOLS, AvailableFiles, IncludedTools, include_tools
from tests.support.catalogs import NANO, STANDARD, acceptance_catalog

EVERYTHING = AvailableFiles(has_documents=True, has_vector_store=True, has_code_files=True)
NOTHING_SWITCHED_OFF = KillSwitches()
ALL = IncludedTools(file_search=True, web_search=True, code_interpreter=True)


def a_model(model_id: str = STANDARD) -> CatalogModel:
    model = Catalog.model_validate(acceptance_catalog()).find_model(model_id)
    assert model is not None
    return model


def included(
    *,
    model: str = STANDARD,
    kind: ProviderKind = "openai_responses",
    web: bool = True,
    files: AvailableFiles = EVERYTHING,
    switches: KillSwitches = NOTHING_SWITCHED_OFF,
) -> tuple[str, ...]:
    tools = include_tools(
        model=a_model(model),
        kind=kind,
        kill_switches=switches,
        is_web_search_wanted=web,
        files=files,
    )
    return tools.names


def test_tools_are_offered_in_one_order() -> None:
    assert included() == ("file_search", "web_search", "code_interpreter")


def test_a_spreadsheet_brings_no_file_search_and_a_text_no_code_interpreter() -> None:
    assert included(web=False, files=AvailableFiles(has_code_files=True)) == ("code_interpreter",)
    assert included(web=False, files=AvailableFiles(has_documents=True, has_vector_store=True)) == ("file_search",)


def test_documents_without_a_known_store_are_not_searched() -> None:
    assert included(web=False, files=AvailableFiles(has_documents=True)) == ()


def test_the_web_is_searched_only_when_asked_for() -> None:
    assert "web_search" not in included(web=False)


@pytest.mark.parametrize("name", ["file_search", "web_search", "code_interpreter"])
def test_a_kill_switch_takes_its_tool_away(name: str) -> None:
    assert included(switches=KillSwitches.model_validate({f"disable_{name}": True})) == tuple(
        tool for tool in included() if tool != name
    )


def test_files_need_a_model_that_can() -> None:
    assert included(model=NANO) == ("web_search",)


@pytest.mark.parametrize("kind", ["openai_chat_completions", "vllm_responses"])
def test_other_dialects_have_no_tools(kind: ProviderKind) -> None:
    assert included(kind=kind) == ()


def test_surcharges_add_up() -> None:
    budgets = EstimationBudgets(
        tool_surcharge_tokens=1, web_search_surcharge_tokens=10, code_interpreter_surcharge_tokens=100
    )
    for flags in itertools.product((False, True), repeat=3):
        assert IncludedTools(*flags).surcharge(budgets) == flags[0] + 10 * flags[1] + 100 * flags[2]


def test_what_has_gone_is_left_out_and_what_has_come_is_not_added() -> None:
    assert IncludedTools(file_search=True, web_search=True) & IncludedTools(
        web_search=True, code_interpreter=True
    ) == IncludedTools(web_search=True)
    assert ALL & NO_TOOLS == NO_TOOLS

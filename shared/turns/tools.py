"""Which tools a turn has: decided before it exists, since each costs tokens of its reserve and of its context.

    file_search       a document is ready to be searched, the chat's store is known, the model can, not switched off
    web_search        the request asked for it, not switched off
    code_interpreter  a file is ready for it, the model can, not switched off

Only the Responses API is offered tools. What a message has attached plays no part: the files are the chat's. A worker
leaves out what has gone since the decision, and never adds what has come. Pure: no I/O.
"""

from __future__ import annotations

from dataclasses import dataclass

from shared.events.frames import ToolName
from shared.model_catalog.catalog import CatalogModel, KillSwitches, ProviderKind
from shared.quotas.budgets import EstimationBudgets


@dataclass(frozen=True, slots=True)
class IncludedTools:
    """In the order in which a model is offered them."""

    file_search: bool = False
    web_search: bool = False
    code_interpreter: bool = False

    @property
    def names(self) -> tuple[ToolName, ...]:
        offered: tuple[tuple[ToolName, bool], ...] = (
            ("file_search", self.file_search),
            ("web_search", self.web_search),
            ("code_interpreter", self.code_interpreter),
        )
        return tuple(name for name, is_included in offered if is_included)

    def surcharge(self, budgets: EstimationBudgets) -> int:
        """Tokens set aside for what the tools add to the model's input, once a turn and not per call."""
        return (
            self.file_search * budgets.tool_surcharge_tokens
            + self.web_search * budgets.web_search_surcharge_tokens
            + self.code_interpreter * budgets.code_interpreter_surcharge_tokens
        )

    def __and__(self, other: IncludedTools) -> IncludedTools:
        """Those that are in both."""
        return IncludedTools(
            file_search=self.file_search and other.file_search,
            web_search=self.web_search and other.web_search,
            code_interpreter=self.code_interpreter and other.code_interpreter,
        )


NO_TOOLS = IncludedTools()


@dataclass(frozen=True, slots=True)
class AvailableFiles:
    """What the chat holds for tools: live, ready files, by what they are for."""

    has_documents: bool = False
    has_vector_store: bool = False
    """The store of the chat exists at the provider and its id is known."""
    has_code_files: bool = False


def include_tools(
    *,
    model: CatalogModel,
    kind: ProviderKind,
    kill_switches: KillSwitches,
    is_web_search_wanted: bool,
    files: AvailableFiles,
) -> IncludedTools:
    """The tools of a turn on `model`, which a provider of `kind` serves."""
    if kind != "openai_responses":
        return NO_TOOLS
    support = model.general_config.tool_support
    return IncludedTools(
        file_search=(
            support.file_search
            and not kill_switches.disable_file_search
            and files.has_documents
            and files.has_vector_store
        ),
        web_search=is_web_search_wanted and not kill_switches.disable_web_search,
        code_interpreter=(
            support.code_interpreter and not kill_switches.disable_code_interpreter and files.has_code_files
        ),
    )

"""What the model is told in a turn, and what of it fits. Pure and deterministic: same stored state, same plan.

In the order in which it is sent:

    instructions         the model's system prompt, then the guards of the tools that the turn has      mandatory
    thread summary       the older part of the conversation in short, as one message of the user
    document summaries   what the documents of the chat are about, as one message of the user
    recent messages      the newest ones, oldest first
    current message      of the user, with its images                                                   mandatory

    deductions = the answer's cap + surcharges of the tools + a fixed overhead
    available  = min(context window - deductions, the model's input limit)

Of what the mandatory items leave, the summary is served first, then recent messages from the newest back, up to the
first that does not fit, then document summaries. No text is ever cut. The API asks `check_mandatory` before a turn
exists, which needs no history; the worker asks the same again with `plan_context`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from shared.model_catalog.catalog import CatalogModel
from shared.quotas.budgets import EstimationBudgets
from shared.quotas.estimation import estimate_text
from shared.settings import ContextSettings
from shared.turns.errors import ContextBudgetExceededError
from shared.turns.tools import NO_TOOLS, IncludedTools

Item = Literal["thread_summary", "recent_messages", "document_summaries"]
"""What can be left out, as the metric names it."""

DEFAULT_GUARDS: Final = ContextSettings()
SUMMARY_PREAMBLE: Final = (
    "The earlier messages of this conversation were summarized. The summary below covers the earlier part; the recent"
    " messages follow it."
)
DOCUMENTS_PREAMBLE: Final = "These documents are part of this conversation:"


@dataclass(frozen=True, slots=True)
class PlannedMessage:
    """A message as the provider is sent it."""

    role: Literal["user", "assistant"]
    text: str


@dataclass(frozen=True, slots=True)
class DocumentSummary:
    filename: str
    text: str


@dataclass(frozen=True, slots=True)
class ContextPlan:
    """`messages` is what is sent, oldest first; the last one is the user's of this turn.

    Attributes:
        assembled_tokens: the estimate of everything that is in.
        messages_truncated: a recent message was left out.
        left_out: what was, in part or wholly.
    """

    instructions: str | None
    messages: tuple[PlannedMessage, ...]
    assembled_tokens: int
    messages_truncated: bool
    left_out: tuple[Item, ...] = ()


def check_mandatory(
    *,
    model: CatalogModel,
    budgets: EstimationBudgets,
    max_output_tokens: int,
    user_text: str,
    images: int = 0,
    tools: IncludedTools = NO_TOOLS,
    guards: ContextSettings = DEFAULT_GUARDS,
) -> int:
    """Tokens that remain for history once the items that cannot be left out are in.

    Raises:
        ContextBudgetExceededError: they do not fit.
    """
    deductions = _deductions(budgets, max_output_tokens, tools)
    available = min(model.context_window - deductions, model.max_input_tokens)
    mandatory = estimate_text(user_text, budgets) + images * budgets.image_token_budget
    if instructions := instructions_of(model, tools=tools, guards=guards):
        mandatory += estimate_text(instructions, budgets)
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
    images: int = 0,
    tools: IncludedTools = NO_TOOLS,
    guards: ContextSettings = DEFAULT_GUARDS,
    summary: str | None = None,
    documents: Sequence[DocumentSummary] = (),
) -> ContextPlan:
    """Build the plan; `recent` is oldest first and holds what came before the user's message.

    Raises:
        ContextBudgetExceededError: the mandatory items do not fit.
    """
    remaining = check_mandatory(
        model=model,
        budgets=budgets,
        max_output_tokens=max_output_tokens,
        user_text=user_text,
        images=images,
        tools=tools,
        guards=guards,
    )
    available = min(model.context_window - _deductions(budgets, max_output_tokens, tools), model.max_input_tokens)
    allowance = _Allowance(remaining, budgets)
    left_out: list[Item] = []

    summaries = [summary_message(summary)] if summary is not None else []
    if summaries and not allowance.take(summaries[0].text):
        summaries = []
        left_out.append("thread_summary")
    kept = _newest_that_fit(recent, allowance)
    is_truncated = len(kept) < len(recent)
    if is_truncated:
        left_out.append("recent_messages")
    told = _documents_that_fit(documents, allowance)
    if len(told) < len(documents):
        left_out.append("document_summaries")

    listing = [_documents_message(told)] if told else []
    return ContextPlan(
        instructions=instructions_of(model, tools=tools, guards=guards),
        messages=(*summaries, *listing, *kept, PlannedMessage("user", user_text)),
        assembled_tokens=available - allowance.remaining,
        messages_truncated=is_truncated,
        left_out=tuple(left_out),
    )


def instructions_of(
    model: CatalogModel, *, tools: IncludedTools = NO_TOOLS, guards: ContextSettings = DEFAULT_GUARDS
) -> str | None:
    """The model's system prompt and the guards of its tools, blank lines between them; None if there is nothing."""
    parts = (
        model.system_prompt,
        guards.web_search_guard if tools.web_search else "",
        guards.file_search_guard if tools.file_search else "",
    )
    return "\n\n".join(part for part in parts if part) or None


def summary_message(summary: str) -> PlannedMessage:
    """How the model is told what the conversation was about before the recent messages."""
    return PlannedMessage("user", f"{SUMMARY_PREAMBLE}\n\n{summary}")


@dataclass(slots=True)
class _Allowance:
    """What is left of the budget while items are added."""

    remaining: int
    budgets: EstimationBudgets

    def take(self, text: str) -> bool:
        """Spend what `text` costs as an item, if that much is left."""
        tokens = estimate_text(text, self.budgets)
        if tokens > self.remaining:
            return False
        self.remaining -= tokens
        return True


def _deductions(budgets: EstimationBudgets, max_output_tokens: int, tools: IncludedTools) -> int:
    return max_output_tokens + tools.surcharge(budgets) + budgets.fixed_overhead_tokens


def _newest_that_fit(recent: Sequence[PlannedMessage], allowance: _Allowance) -> list[PlannedMessage]:
    kept: list[PlannedMessage] = []
    for message in reversed(recent):
        if not allowance.take(message.text):
            break
        kept.append(message)
    kept.reverse()
    return kept


def _documents_that_fit(documents: Sequence[DocumentSummary], allowance: _Allowance) -> list[DocumentSummary]:
    """As many of the first ones as fit into one message."""
    count, tokens = 0, 0
    for end in range(1, len(documents) + 1):
        wanted = estimate_text(_documents_message(documents[:end]).text, allowance.budgets)
        if wanted > allowance.remaining:
            break
        count, tokens = end, wanted
    allowance.remaining -= tokens
    return list(documents[:count])


def _documents_message(documents: Iterable[DocumentSummary]) -> PlannedMessage:
    lines = (f"{document.filename}: {document.text}" for document in documents)
    return PlannedMessage("user", "\n".join((DOCUMENTS_PREAMBLE, "", *lines)))

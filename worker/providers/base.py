"""The seam between a turn and whoever generates its answer.

A call is `async with provider.open(request, on_requested=...) as stream` and `async for event in stream`. The stream
yields any number of deltas, tool events and counts and then one `Completed`, after which it ends; or it raises one
`ProviderError`, which may come at any point, from `open` on. Leaving the block before that drops the connection at
once, which is what stops a paid generation. Nothing here is retried after the first event.

What nobody watches, such as a summary, is asked for with `complete`, which waits for the whole answer.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Literal, Protocol
from uuid import UUID

from shared.events.frames import ToolName
from shared.model_catalog.catalog import CatalogModel
from shared.providers.failures import Failure, FailureCode
from shared.turns.context import PlannedMessage
from shared.turns.lifecycle import TokenUsage

RequestKind = Literal["chat", "summary", "doc_summary"]
IncompleteReason = Literal["max_tokens", "content_filter", "other"]


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One generation, provider-independent except for `tools`.

    Attributes:
        history: oldest first, the current user message last.
        image_file_ids: provider file ids, shown with the last message.
        tools: in the provider's wire form, in the order the model is offered them.
    """

    model: CatalogModel
    instructions: str | None
    history: tuple[PlannedMessage, ...]
    max_output_tokens: int
    tenant_id: UUID
    user_id: UUID
    chat_id: UUID
    request_kind: RequestKind
    image_file_ids: tuple[str, ...] = ()
    tools: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class TextDelta:
    text: str


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """Thinking that the provider exposes; never part of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolStarted:
    name: ToolName


@dataclass(frozen=True, slots=True)
class ToolDone:
    name: ToolName
    details: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Counted:
    """What the provider has billed so far: what is charged if the call ends before it is `Completed`."""

    usage: TokenUsage


@dataclass(frozen=True, slots=True)
class Completed:
    """The end of an answer. `incomplete_reason` is set if the provider cut it short.

    `annotations` are the provider's own, except that `start_index` and `end_index` count from the start of the whole
    answer and not of one of its parts.
    """

    response_id: str | None
    usage: TokenUsage | None
    incomplete_reason: IncompleteReason | None
    annotations: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole answer: its text without any thinking, which may be empty."""

    text: str
    response_id: str | None
    usage: TokenUsage | None
    incomplete_reason: IncompleteReason | None


ProviderEvent = TextDelta | ReasoningDelta | ToolStarted | ToolDone | Counted | Completed
ProviderStream = AsyncIterator[ProviderEvent]


class ProviderError(Exception):
    """The call failed; final for the turn.

    Attributes:
        message: fit for clients.
        detail: what the provider really said, without credentials; for operators.
        usage: what it billed nevertheless, if it said so.
    """

    def __init__(
        self,
        code: FailureCode,
        message: str,
        detail: str = "",
        *,
        usage: TokenUsage | None = None,
        response_id: str | None = None,
        http_status: int | None = None,
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.failure = Failure(code, message, detail, http_status)
        self.usage = usage
        self.response_id = response_id

    @classmethod
    def of(cls, failure: Failure, *, usage: TokenUsage | None = None, response_id: str | None = None) -> ProviderError:
        error = cls(failure.code, failure.message, usage=usage, response_id=response_id)
        error.failure = failure
        return error

    @property
    def code(self) -> FailureCode:
        return self.failure.code

    @property
    def message(self) -> str:
        return self.failure.message

    @property
    def detail(self) -> str:
        return self.failure.detail

    @property
    def http_status(self) -> int | None:
        return self.failure.http_status


class Provider(Protocol):
    def open(
        self, request: GenerationRequest, *, on_requested: Callable[[], object]
    ) -> AbstractAsyncContextManager[ProviderStream]:
        """Send `request`; entering waits for the response's head.

        Args:
            on_requested: called once, right before the request is sent: from then on it may cost money.

        Raises:
            ProviderError: on entering or while iterating.
        """
        ...

    async def complete(self, request: GenerationRequest, *, on_requested: Callable[[], object]) -> Completion:
        """Send `request` and wait for the whole answer; being cancelled drops the connection at once.

        Args:
            on_requested: called once, right before the request is sent: from then on it may cost money.

        Raises:
            ProviderError: there is no answer.
        """
        ...

    async def aclose(self) -> None:
        """Drop what is still being drained. Connections are the registry's."""
        ...

"""The Chat Completions API: request bodies and the meaning of its stream chunks.

Tools are not offered here, nor are citations. The answer ends with `[DONE]`; usage comes in a chunk of its own after
the finish reason. Servers exist that close without `[DONE]`: once the finish reason is known, that is a completed
answer too.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from shared.providers.failures import ended_early, reported
from shared.turns.context import PlannedMessage
from shared.turns.lifecycle import TokenUsage
from worker.providers.base import (
    Completed,
    Completion,
    Counted,
    GenerationRequest,
    IncompleteReason,
    ProviderError,
    ProviderEvent,
    TextDelta,
)
from worker.providers.wire import (
    DONE_MARK,
    count,
    decode_object,
    end_user,
    incomplete_reason,
    mapping,
    mappings,
    sampling_params,
    text_of,
    with_extra_body,
)

_CUT_SHORT = frozenset({"length", "content_filter"})
_log = logging.getLogger(__name__)


def build_body(request: GenerationRequest) -> dict[str, Any]:
    """The streaming request; `max_completion_tokens` bounds its cost and is always there."""
    if request.tools:
        _log.debug("chat completions: %d tools dropped", len(request.tools))
    effort = request.model.general_config.api_params.reasoning_effort
    body: dict[str, Any] = {
        "model": request.model.provider_model_id,
        "stream": True,
        "stream_options": {"include_usage": True},
        "messages": _messages(request),
        "max_completion_tokens": request.max_output_tokens,
        "user": end_user(request),
        **sampling_params(request.model),
        **({} if effort is None else {"reasoning_effort": effort}),
    }
    return with_extra_body(body, request.model)


def _messages(request: GenerationRequest) -> list[dict[str, Any]]:
    system = [{"role": "system", "content": request.instructions}] if request.instructions else []
    messages = [{"role": message.role, "content": message.text} for message in request.history]
    if messages and request.image_file_ids:
        messages[-1:] = [_with_images(request.history[-1], request.image_file_ids)]
    return [*system, *messages]


def _with_images(message: PlannedMessage, file_ids: tuple[str, ...]) -> dict[str, Any]:
    images = [{"type": "image_url", "image_url": {"url": file_id}} for file_id in file_ids]
    return {"role": message.role, "content": [{"type": "text", "text": message.text}, *images]}


def read_answer(data: bytes) -> Completion:
    """A completion that was not streamed.

    Raises:
        ProviderError: it is none, or tells of a failure.
    """
    value = decode_object(data)
    usage, response_id = value.get("usage"), text_of(value.get("id")) or None
    counted = _usage(usage) if isinstance(usage, dict) else None
    if value.get("error"):
        raise ProviderError.of(reported(data, value), usage=counted, response_id=response_id)
    choice = next(iter(mappings(value.get("choices"))), {})
    reason = text_of(choice.get("finish_reason"))
    return Completion(
        text=text_of(mapping(choice.get("message")).get("content")),
        response_id=response_id,
        usage=counted,
        incomplete_reason=incomplete_reason(reason) if reason in _CUT_SHORT else None,
    )


class ChatCompletionsTranslator:
    """One streamed completion."""

    def __init__(self) -> None:
        self._response_id: str | None = None
        self._finish_reason: str | None = None
        self._usage: TokenUsage | None = None

    def feed(self, _name: str, data: bytes) -> tuple[ProviderEvent, ...]:
        if data == DONE_MARK:
            return (self._completed(),)
        if not data:
            return ()
        chunk = decode_object(data)
        counted = self._remember(chunk)
        if chunk.get("error"):
            raise ProviderError.of(reported(data, chunk), usage=self._usage, response_id=self._response_id)
        told = self._choice(next(iter(mappings(chunk.get("choices"))), {}))
        return (*counted, *told) if counted else told  # nearly every chunk is a delta alone

    def finish(self) -> tuple[ProviderEvent, ...]:
        if self._finish_reason is None:
            raise ProviderError.of(ended_early())
        return (self._completed(),)

    def _remember(self, chunk: Mapping[str, Any]) -> tuple[ProviderEvent, ...]:
        self._response_id = self._response_id or text_of(chunk.get("id")) or None
        if not isinstance(usage := chunk.get("usage"), dict):
            return ()
        self._usage = _usage(usage)
        return (Counted(self._usage),)

    def _choice(self, choice: Mapping[str, Any]) -> tuple[ProviderEvent, ...]:
        if reason := text_of(choice.get("finish_reason")):
            self._finish_reason = reason
        text = text_of(mapping(choice.get("delta")).get("content"))
        return (TextDelta(text),) if text else ()

    def _completed(self) -> Completed:
        reason: IncompleteReason | None = None
        if self._finish_reason in _CUT_SHORT:
            reason = incomplete_reason(self._finish_reason)
        return Completed(self._response_id, self._usage, reason, ())


def _usage(usage: Mapping[str, Any]) -> TokenUsage:
    return TokenUsage(
        input_tokens=count(usage.get("prompt_tokens")),
        output_tokens=count(usage.get("completion_tokens")),
        cache_read_input_tokens=count(mapping(usage.get("prompt_tokens_details")).get("cached_tokens")),
        reasoning_tokens=count(mapping(usage.get("completion_tokens_details")).get("reasoning_tokens")),
    )

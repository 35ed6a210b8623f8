"""vLLM's Responses API: the same stream, fewer members in the request, thinking inside the text.

Text between `<think>` and `</think>` becomes reasoning, whatever the chunking; the tags themselves are never emitted,
and a block that is not closed stays reasoning.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from typing import Any

from worker.providers import openai_responses
from worker.providers.base import Completed, Completion, GenerationRequest, ProviderEvent, ReasoningDelta, TextDelta
from worker.providers.openai_responses import ResponsesTranslator, input_items, response_params, without_empty
from worker.providers.wire import end_user, with_extra_body

_OPEN, _CLOSE = "<think>", "</think>"
_TAG = re.compile(r"(</?think>)")
_TORN_TAG = re.compile(r"<(?:/?(?:t(?:h(?:i(?:nk?)?)?)?)?)\Z")
_log = logging.getLogger(__name__)


def build_body(request: GenerationRequest) -> dict[str, Any]:
    """The streaming request; `max_output_tokens` bounds its cost and is always there."""
    if request.tools:
        _log.debug("vllm: %d tools dropped", len(request.tools))
    body: dict[str, Any] = {
        "model": request.model.provider_model_id,
        "stream": True,
        "instructions": request.instructions,
        "input": input_items(request, str),
        "max_output_tokens": request.max_output_tokens,
        "user": end_user(request),
        **response_params(request),
    }
    return with_extra_body(without_empty(body, "instructions"), request.model)


def read_answer(data: bytes) -> Completion:
    """A response that was not streamed, without its thinking.

    Raises:
        ProviderError: it is none, or tells of a failure.
    """
    whole = openai_responses.read_answer(data)
    splitter = ThinkSplitter()
    events = (*splitter.feed(whole.text), *splitter.finish())
    return dataclasses.replace(whole, text="".join(event.text for event in events if isinstance(event, TextDelta)))


class ThinkSplitter:
    """Tells thinking from answer; holds back what may be the beginning of a tag."""

    def __init__(self) -> None:
        self._held = ""
        self._is_thinking = False

    def feed(self, text: str) -> tuple[ProviderEvent, ...]:
        text = self._held + text
        torn = _TORN_TAG.search(text)
        self._held = torn.group() if torn else ""
        return self._split(text[: torn.start()] if torn else text)

    def finish(self) -> tuple[ProviderEvent, ...]:
        """What was held back and turned out to be text."""
        held, self._held = self._held, ""
        return self._split(held)

    def _split(self, text: str) -> tuple[ProviderEvent, ...]:
        events: list[ProviderEvent] = []
        for piece in _TAG.split(text):
            if piece in (_OPEN, _CLOSE):
                self._is_thinking = piece == _OPEN
            elif piece:
                events.append(ReasoningDelta(piece) if self._is_thinking else TextDelta(piece))
        return tuple(events)


class VllmTranslator(ResponsesTranslator):
    """One streamed response of vLLM."""

    def __init__(self) -> None:
        self._splitter = ThinkSplitter()

    def on_text(self, text: str) -> tuple[ProviderEvent, ...]:
        return self._splitter.feed(text)

    def feed(self, name: str, data: bytes) -> tuple[ProviderEvent, ...]:
        events = super().feed(name, data)
        if events and isinstance(events[-1], Completed):
            return (*self._splitter.finish(), *events)
        return events

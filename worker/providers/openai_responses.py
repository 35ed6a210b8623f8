"""The Responses API: request bodies and the meaning of its stream events.

An event's name is its `event:` line; `data.type` is only the fallback. The object of a terminal event is under
`response` or is the data itself, and compatible servers put `error`, `usage` and `incomplete_details` in either place.
Only events of the table below are decoded, everything else passes unread.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

from shared.events.frames import ToolName
from shared.providers.failures import decode, ended_early, reported
from shared.providers.sanitize import clean_json
from shared.turns.context import PlannedMessage
from shared.turns.lifecycle import TokenUsage
from worker.providers.base import (
    Completed,
    Completion,
    GenerationRequest,
    IncompleteReason,
    ProviderError,
    ProviderEvent,
    TextDelta,
    ToolDone,
    ToolStarted,
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

Events = tuple[ProviderEvent, ...]
Json = Mapping[str, Any]

MAX_TOOL_OUTPUT_CHARS = 8_192
TRUNCATION_MARK = "...[truncated]"


def build_body(request: GenerationRequest) -> dict[str, Any]:
    """The streaming request; `max_output_tokens` and `max_tool_calls` bound its cost and are always there."""
    body: dict[str, Any] = {
        "model": request.model.provider_model_id,
        "stream": True,
        "store": False,
        "previous_response_id": None,
        "instructions": request.instructions,
        "input": input_items(request, _assistant_parts),
        "tools": [dict(tool) for tool in request.tools],
        "max_output_tokens": request.max_output_tokens,
        "max_tool_calls": request.model.max_tool_calls,
        "user": end_user(request),
        "metadata": _metadata(request),
        **response_params(request),
    }
    return with_extra_body(without_empty(body, "instructions", "tools"), request.model)


def without_empty(body: dict[str, Any], *names: str) -> dict[str, Any]:
    """`body` without those of the named members that hold nothing."""
    return {name: value for name, value in body.items() if value or name not in names}


def response_params(request: GenerationRequest) -> dict[str, Any]:
    effort = request.model.general_config.api_params.reasoning_effort
    return sampling_params(request.model) | ({} if effort is None else {"reasoning": {"effort": effort}})


def input_items(request: GenerationRequest, assistant_content: Callable[[str], Any]) -> list[dict[str, Any]]:
    """The history as message items; images follow the text of the last one."""
    items = [_item(message, assistant_content) for message in request.history]
    if items and request.image_file_ids:
        images = [{"type": "input_image", "file_id": file_id} for file_id in request.image_file_ids]
        items[-1]["content"] = [*items[-1]["content"], *images]
    return items


def _item(message: PlannedMessage, assistant_content: Callable[[str], Any]) -> dict[str, Any]:
    is_user = message.role == "user"
    content = [{"type": "input_text", "text": message.text}] if is_user else assistant_content(message.text)
    return {"type": "message", "role": message.role, "content": content}


def _assistant_parts(text: str) -> list[dict[str, Any]]:
    return [{"type": "output_text", "text": text}]


def _metadata(request: GenerationRequest) -> dict[str, str]:
    return {
        "tenant_id": str(request.tenant_id),
        "user_id": str(request.user_id),
        "chat_id": str(request.chat_id),
        "request_type": request.request_kind,
        "feature": "+".join(str(tool["type"]) for tool in request.tools) or "none",
    }


def read_answer(data: bytes) -> Completion:
    """A response that was not streamed: the object that a stream's terminal event would hold.

    Raises:
        ProviderError: it is none, or tells of a failure.
    """
    value = decode_object(data)
    if value.get("error") or value.get("status") in _NO_ANSWER:
        _on_failed(value)
    details = mapping(value.get("incomplete_details"))
    reason = incomplete_reason(details.get("reason")) if details else None
    text = "".join(text_of(part.get("text")) for part in _text_parts(value.get("output")))
    return Completion(text, _response_id(value), _usage(value), reason)


class ResponsesTranslator:
    """One streamed response."""

    def feed(self, name: str, data: bytes) -> Events:
        if name == _TEXT_DELTA:  # nearly every event
            return self.on_text(text_of(decode_object(data).get("delta")))
        if name in _NAMELESS:
            return self._feed_nameless(data)
        if name == _ERROR:
            _fail(data)
        meaning = _MEANINGS.get(name)
        return meaning(decode_object(data)) if meaning else ()

    def finish(self) -> Events:
        raise ProviderError.of(ended_early())

    def on_text(self, text: str) -> Events:
        return (TextDelta(text),) if text else ()

    def _feed_nameless(self, data: bytes) -> Events:
        """Data without a name may be a delta, so it has to be read; an unreadable one cannot be passed over."""
        if not data or data == DONE_MARK:
            return ()
        value = decode_object(data)
        name = value.get("type") or (_ERROR if value.get("error") else "")
        return self.feed(name, data) if isinstance(name, str) and name not in _NAMELESS else ()


def _fail(data: bytes) -> NoReturn:
    """An `error` event: `{"error": {...}}`, flat, or plain text."""
    try:
        value = decode(data)
    except ValueError:
        value = None
    raise ProviderError.of(
        reported(data, value), usage=_usage(mapping(value)), response_id=_response_id(mapping(value))
    )


def _on_failed(value: Json) -> NoReturn:
    """Only the error is repeated: the rest of the object holds the instructions and the answer."""
    error = _member(value, "error")
    raw = json.dumps(error).encode() if error else b""
    raise ProviderError.of(reported(raw, error), usage=_usage(value), response_id=_response_id(value))


def _on_incomplete(value: Json) -> Events:
    details = mapping(_member(value, "incomplete_details"))
    return (_completed(value, incomplete_reason(details.get("reason"))),)


def _on_completed(value: Json) -> Events:
    """Servers exist that call a cut answer completed and still give the reason."""
    return _on_incomplete(value) if _member(value, "incomplete_details") else (_completed(value, None),)


def _on_tool_started(name: ToolName) -> Callable[[Json], Events]:
    return lambda _value: (ToolStarted(name),)


def _on_files_searched(value: Json) -> Events:
    results = value.get("results")
    return (ToolDone("file_search", {"files_searched": len(results) if isinstance(results, list) else 0}),)


def _on_web_searched(_value: Json) -> Events:
    return (ToolDone("web_search", {}),)


def _on_code_interpreted(value: Json) -> Events:
    logs = [text_of(output.get("logs")) for output in mappings(value.get("outputs")) if output.get("type") == "logs"]
    output = "\n".join(logs)
    if len(output) > MAX_TOOL_OUTPUT_CHARS:
        output = output[:MAX_TOOL_OUTPUT_CHARS] + TRUNCATION_MARK
    return (ToolDone("code_interpreter", {"output": output}),)


_NO_ANSWER = ("failed", "cancelled")
_TEXT_DELTA = "response.output_text.delta"
_ERROR = "error"
_NAMELESS = frozenset({"", "message"})
"""No `event:` line, or the name that such events have by default."""

_MEANINGS: Mapping[str, Callable[[Json], Events]] = {
    "response.file_search_call.searching": _on_tool_started("file_search"),
    "response.file_search_call.completed": _on_files_searched,
    "response.web_search_call.searching": _on_tool_started("web_search"),
    "response.web_search_call.completed": _on_web_searched,
    "response.code_interpreter_call.in_progress": _on_tool_started("code_interpreter"),
    "response.code_interpreter_call.completed": _on_code_interpreted,
    "response.completed": _on_completed,
    "response.incomplete": _on_incomplete,
    "response.failed": _on_failed,
}


def _completed(value: Json, reason: IncompleteReason | None) -> Completed:
    return Completed(_response_id(value), _usage(value), reason, tuple(_annotations(_member(value, "output"))))


def _member(value: Json, name: str) -> Any:
    """A member of the response object, or of the data around it."""
    inner = mapping(value.get("response")).get(name)
    return value.get(name) if inner is None else inner


def _response_id(value: Json) -> str | None:
    """The id in `response`; the data's own only where the data is the response."""
    holder = value.get("response", value)
    return text_of(mapping(holder).get("id")) or None


def _usage(value: Json) -> TokenUsage | None:
    usage = _member(value, "usage")
    if not isinstance(usage, dict):
        return None
    return TokenUsage(
        input_tokens=count(usage.get("input_tokens")),
        output_tokens=count(usage.get("output_tokens")),
        cache_read_input_tokens=count(mapping(usage.get("input_tokens_details")).get("cached_tokens")),
        reasoning_tokens=count(mapping(usage.get("output_tokens_details")).get("reasoning_tokens")),
    )


def _annotations(output: Any) -> list[Json]:
    """Every annotation, its indexes moved from its own part to the whole answer."""
    annotations = []
    offset = 0
    for part in _text_parts(output):
        annotations += [_moved(annotation, offset) for annotation in mappings(part.get("annotations"))]
        offset += len(text_of(part.get("text")))
    return annotations


def _text_parts(output: Any) -> Iterator[Json]:
    for item in mappings(output):
        for part in mappings(item.get("content")):
            if part.get("type") == "output_text":
                yield part


def _moved(annotation: Json, offset: int) -> Json:
    moved: dict[str, Any] = clean_json(annotation)
    for index in ("start_index", "end_index"):
        if isinstance(moved.get(index), int):
            moved[index] += offset
    return moved

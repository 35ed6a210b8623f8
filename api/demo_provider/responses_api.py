"""The Responses API on the wire: a script's answer as the events OpenAI streams, in OpenAI's order.

`response.created`, `response.in_progress`, the provider-side tool calls, then one message item: added,
its text part added, the deltas, annotations, text done, part done, item done, and the terminal event. Every
event has an `event:` line, a `type` and a `sequence_number` that counts from 0 without gaps. Tool calls take
the first output indexes, the message the next one.
"""

import time
from typing import Any

from api.demo_provider.generation import Answer, Generation
from api.demo_provider.script import Script, ScriptedTool, Terminal
from api.demo_provider.wire import dump_json, new_id, sse_frame

# Members of the request that the response object repeats, with what is shown when they are not sent.
_ECHOED: dict[str, Any] = {
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "reasoning": {"effort": None, "summary": None},
    "store": True,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
}
_TOOL_ID_PREFIXES = {"file_search": "fs_", "web_search": "ws_", "code_interpreter": "ci_"}
_TOOL_STEPS = {
    "file_search": ("in_progress", "searching"),
    "web_search": ("in_progress", "searching"),
    "code_interpreter": ("in_progress", "interpreting"),
}


class ResponsesWire:
    """Encodes one streamed answer; methods are called in stream order, each event once."""

    def __init__(self, generation: Generation, script: Script, answer: Answer) -> None:
        self._script = script
        self._answer = answer
        self._envelope = _Envelope(generation)
        self._sequence = 0
        self._message_index = len(script.tools)
        self._message_id = new_id("msg_")
        self._tool_items: list[dict[str, Any]] = []
        # A delta is the hot path: everything but its text and number is encoded once.
        place = {"item_id": self._message_id, "output_index": self._message_index, "content_index": 0}
        head = dump_json({"type": "response.output_text.delta", **place, "logprobs": []})[:-1]
        self._delta_head = b"event: response.output_text.delta\ndata: " + head + b',"delta":'
        self._place = place

    def opening(self) -> bytes:
        """Everything before the first delta."""
        started = self._envelope.response("in_progress")
        frames = [
            self._event("response.created", response=started),
            self._event("response.in_progress", response=started),
        ]
        for index, tool in enumerate(self._script.tools):
            frames += self._tool_frames(index, tool)
        item = self._message("in_progress", content=[])
        frames += [
            self._event("response.output_item.added", output_index=self._message_index, item=item),
            self._event("response.content_part.added", **self._place, part=_text_part("", [])),
        ]
        return b"".join(frames)

    def delta(self, text: str) -> bytes:
        """One piece of text."""
        frame = b'%b%b,"sequence_number":%d}\n\n' % (self._delta_head, dump_json(text), self._sequence)
        self._sequence += 1
        return frame

    def closing(self, terminal: Terminal) -> bytes:
        """Everything after the last delta; nothing where the connection itself is the end."""
        if terminal == "completed":
            return self._ended("completed", incomplete_details=None)
        if terminal == "incomplete":
            return self._ended("incomplete", incomplete_details={"reason": "max_output_tokens"})
        if terminal == "failed":
            return self._failed()
        if terminal == "garbage":
            return sse_frame("response.completed", '{"type":"response.completed","response":{"id":')
        return b""

    def _ended(self, status: str, *, incomplete_details: dict[str, str] | None) -> bytes:
        text, citations = self._answer.text, self._script.citations
        part = _text_part(text, citations)
        message = self._message(status, content=[part])
        frames = [
            self._event(
                "response.output_text.annotation.added",
                **self._place,
                annotation_index=index,
                annotation=annotation,
            )
            for index, annotation in enumerate(citations)
        ]
        response = self._envelope.response(
            status,
            output=[*self._tool_items, message],
            usage=usage_object(self._answer),
            incomplete_details=incomplete_details,
        )
        frames += [
            self._event("response.output_text.done", **self._place, text=text, logprobs=[]),
            self._event("response.content_part.done", **self._place, part=part),
            self._event("response.output_item.done", output_index=self._message_index, item=message),
            self._event(f"response.{status}", response=response),
        ]
        return b"".join(frames)

    def _failed(self) -> bytes:
        """A failure reports usage only if the script gives one, as a provider that broke down would."""
        has_usage = self._script.usage.model_fields_set
        response = self._envelope.response(
            "failed",
            output=self._tool_items,
            usage=usage_object(self._answer) if has_usage else None,
            error=self._script.error.model_dump(),
        )
        return self._event("response.failed", response=response)

    def _tool_frames(self, index: int, tool: ScriptedTool) -> list[bytes]:
        kind = f"{tool.name}_call"
        item_id = new_id(_TOOL_ID_PREFIXES[tool.name])
        item = {"id": item_id, "type": kind, **_tool_defaults(tool)}
        details = _tool_details(tool)
        done = {**item, **details, "status": "completed"}
        self._tool_items.append(done)
        added = {**item, "status": "in_progress"}
        place = {"output_index": index, "item_id": item_id}
        return [
            self._event("response.output_item.added", output_index=index, item=added),
            *(self._event(f"response.{kind}.{step}", **place) for step in _TOOL_STEPS[tool.name]),
            self._event(f"response.{kind}.completed", **{**details, **place}),
            self._event("response.output_item.done", output_index=index, item=done),
        ]

    def _message(self, status: str, *, content: list[dict[str, Any]]) -> dict[str, Any]:
        return message_item(self._message_id, status=status, content=content)

    def _event(self, kind: str, **members: Any) -> bytes:
        data = {**members, "type": kind, "sequence_number": self._sequence}
        self._sequence += 1
        return sse_frame(kind, dump_json(data))


class _Envelope:
    """The response object around an answer, the same in every event of a stream but for its state."""

    def __init__(self, generation: Generation) -> None:
        body = generation.body
        self._fixed: dict[str, Any] = {
            "id": new_id("resp_"),
            "object": "response",
            "created_at": int(time.time()),
            "model": generation.model,
            **{name: body.get(name, shown) for name, shown in _ECHOED.items()},
        }

    def response(
        self,
        status: str,
        *,
        output: list[dict[str, Any]] | None = None,
        usage: dict[str, Any] | None = None,
        error: dict[str, Any] | None = None,
        incomplete_details: dict[str, str] | None = None,
    ) -> dict[str, Any]:
        return {
            **self._fixed,
            "status": status,
            "error": error,
            "incomplete_details": incomplete_details,
            "output": output or [],
            "usage": usage,
        }


def whole_response(generation: Generation, answer: Answer) -> dict[str, Any]:
    """The answer to a request that does not stream."""
    item = message_item(new_id("msg_"), status="completed", content=[_text_part(answer.text, [])])
    return _Envelope(generation).response("completed", output=[item], usage=usage_object(answer))


def message_item(item_id: str, *, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
    """An output item that holds the assistant's text."""
    return {"id": item_id, "type": "message", "status": status, "role": "assistant", "content": content}


def usage_object(answer: Answer) -> dict[str, Any]:
    """Token counts in the form of the Responses API."""
    return {
        "input_tokens": answer.input_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": answer.output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": answer.input_tokens + answer.output_tokens,
    }


def _text_part(text: str, annotations: list[dict[str, Any]]) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": annotations, "logprobs": []}


def _tool_defaults(tool: ScriptedTool) -> dict[str, Any]:
    if tool.name == "file_search":
        return {"queries": ["demo"], "results": None}
    if tool.name == "web_search":
        return {"action": {"type": "search", "query": "demo"}}
    return {"code": "", "container_id": new_id("cntr_"), "outputs": None}


def _tool_details(tool: ScriptedTool) -> dict[str, Any]:
    """The tool's details in wire form: the two short forms are spelt out, the rest goes as given."""
    details = dict(tool.details)
    if tool.name == "file_search" and isinstance(details.get("files_searched"), int):
        count = details.pop("files_searched")
        details.setdefault("results", [_search_result(number) for number in range(count)])
    if tool.name == "code_interpreter" and isinstance(details.get("output"), str):
        output = details.pop("output")
        details.setdefault("outputs", [{"type": "logs", "logs": output}])
    return details


def _search_result(number: int) -> dict[str, Any]:
    return {
        "file_id": new_id("file-"),
        "filename": f"demo-{number}.txt",
        "score": 0.9,
        "text": "",
        "attributes": {},
    }

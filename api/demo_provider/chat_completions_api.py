"""The Chat Completions API on the wire.

A stream is a chunk with the role, one chunk per delta, a chunk with the finish reason, a chunk with usage
if `stream_options.include_usage` asks for it, and `[DONE]`. Tool calls and citations of a script have no
form here and are not played. A failure is one `error` object, after which the stream ends.
"""

import time
from typing import Any

from api.demo_provider.generation import Answer, Generation
from api.demo_provider.script import Script, Terminal
from api.demo_provider.wire import dump_json, new_id, sse_frame


class ChatCompletionsWire:
    """Encodes one streamed answer; methods are called in stream order."""

    def __init__(self, generation: Generation, script: Script, answer: Answer) -> None:
        self._script = script
        self._answer = answer
        options = generation.body.get("stream_options")
        self._has_usage = isinstance(options, dict) and options.get("include_usage") is True
        self._fixed = _fixed_members(generation, kind="chat.completion.chunk")
        # A delta is the hot path: everything but its text is encoded once.
        head = dump_json(self._fixed | ({"usage": None} if self._has_usage else {}))[:-1]
        self._delta_head = b"data: " + head + b',"choices":[{"index":0,"delta":{"content":'
        self._delta_tail = b'},"logprobs":null,"finish_reason":null}]}\n\n'

    def opening(self) -> bytes:
        """The chunk that names the role."""
        return self._chunk([_choice({"role": "assistant", "content": ""}, None)])

    def delta(self, text: str) -> bytes:
        """One piece of text."""
        return self._delta_head + dump_json(text) + self._delta_tail

    def closing(self, terminal: Terminal) -> bytes:
        """Everything after the last delta; nothing where the connection itself is the end."""
        if terminal in ("completed", "incomplete"):
            return self._ended("stop" if terminal == "completed" else "length")
        if terminal == "failed":
            return sse_frame(None, dump_json({"error": {**self._script.error.model_dump(), "param": None}}))
        if terminal == "garbage":
            return sse_frame(None, '{"id":"chatcmpl-0","choices":[{"delta":')
        return b""

    def _ended(self, finish_reason: str) -> bytes:
        frames = [self._chunk([_choice({}, finish_reason)])]
        if self._has_usage:
            frames.append(self._chunk([], usage=usage_object(self._answer)))
        return b"".join([*frames, sse_frame(None, b"[DONE]")])

    def _chunk(self, choices: list[dict[str, Any]], *, usage: dict[str, Any] | None = None) -> bytes:
        shown = {"usage": usage} if self._has_usage else {}
        return sse_frame(None, dump_json({**self._fixed, **shown, "choices": choices}))


def whole_completion(generation: Generation, answer: Answer) -> dict[str, Any]:
    """The answer to a request that does not stream."""
    message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None, "annotations": []}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    fixed = _fixed_members(generation, kind="chat.completion")
    return {**fixed, "choices": [choice], "usage": usage_object(answer)}


def usage_object(answer: Answer) -> dict[str, Any]:
    """Token counts in the form of the Chat Completions API."""
    return {
        "prompt_tokens": answer.input_tokens,
        "completion_tokens": answer.output_tokens,
        "total_tokens": answer.input_tokens + answer.output_tokens,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def _fixed_members(generation: Generation, *, kind: str) -> dict[str, Any]:
    return {
        "id": new_id("chatcmpl-"),
        "object": kind,
        "created": int(time.time()),
        "model": generation.model,
        "system_fingerprint": "fp_demo0000",
    }


def _choice(delta: dict[str, Any], finish_reason: str | None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}

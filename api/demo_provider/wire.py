"""What every endpoint of the scripted provider writes: JSON, event-stream frames, ids and errors.

Errors have the shape OpenAI clients expect, `{"error": {"message", "type", "param", "code"}}`.
"""

import json
import secrets
from typing import Any

import orjson
from aiohttp import web

JSON_TYPE = "application/json"


class ApiError(Exception):
    """A request that is refused; it becomes an HTTP answer in OpenAI's error shape."""

    def __init__(self, message: str, *, status: int = 400, code: str, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.code = code
        self.param = param

    def response(self) -> web.Response:
        """The answer that tells the caller."""
        body = error_body(self.message, status=self.status, code=self.code, param=self.param)
        return json_response(body, status=self.status)


def new_id(prefix: str) -> str:
    """A fresh id such as `resp_9f…0`; its last character is a digit, so at least one is among them."""
    return f"{prefix}{secrets.token_hex(12)}0"


def dump_json(value: Any) -> bytes:
    """Encode `value`; what orjson refuses (unpaired surrogates, huge integers) takes the slow path."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return json.dumps(value, separators=(",", ":")).encode("ascii")


def sse_frame(event: str | None, data: str | bytes | None) -> bytes:
    """One event-stream frame; without `event` or `data` that line is left out."""
    raw = data.encode("utf-8", "replace") if isinstance(data, str) else data
    lines = [] if event is None else [b"event: " + event.encode("utf-8", "replace")]
    if raw is not None:
        lines += [b"data: " + line for line in raw.split(b"\n")]
    return b"\n".join(lines) + b"\n\n"


def error_body(message: str, *, status: int, code: str | None, param: str | None = None) -> dict[str, Any]:
    """The body of an error answer; the type follows from the status, as OpenAI's does."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def json_response(value: Any, *, status: int = 200) -> web.Response:
    """A whole JSON answer."""
    return web.Response(body=dump_json(value), status=status, content_type=JSON_TYPE)

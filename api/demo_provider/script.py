"""Scripts: what the provider is told to answer, and how one is chosen.

A script is a JSON object. For one streaming request the first of these that exists is played:

1. the oldest queued script that may serve it; one with `match` serves only a request whose last user
   text contains that string, one without serves any;
2. a directive, `@script {json}`, at the start of the last user text; the text after the object is the question;
3. a short canned answer that quotes the question.

Requests that do not stream always get the canned answer and take nothing from the queue.

A queued script with a member `storage` is about the Files and Vector Stores APIs instead, see `storage_script`.
"""

import json
import re
from collections import deque
from typing import Any, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from api.demo_provider.storage_script import StorageScript

S = TypeVar("S", bound=BaseModel)

Terminal = Literal["completed", "incomplete", "failed", "eof", "reset", "hang", "garbage"]
ToolName = Literal["file_search", "web_search", "code_interpreter"]

# A longer answer is a typing error in a bench, and would be built in memory first.
MAX_TOKENS = 100_000

_DIRECTIVE = re.compile(r"\s*@script(?=[\s{]|$)\s*")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_FRAMING_HEADERS = frozenset({"content-length", "transfer-encoding", "connection"})
_QUOTED_CHARACTERS = 200


class InvalidScript(ValueError):  # noqa: N818 - names what it found, as the domain's other errors do
    """A script or directive that cannot be played; `where` points into it, the text says why."""

    def __init__(self, message: str, *, where: str | None = None) -> None:
        super().__init__(message)
        self.where = where


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class ScriptedUsage(_Part):
    """Token counts to report; a missing one is counted."""

    input_tokens: int | None = Field(default=None, ge=0)
    output_tokens: int | None = Field(default=None, ge=0)


class ScriptedTool(_Part):
    """A provider-side tool call played before the text.

    `details` is merged into the tool's completed event and its item. Two short forms are understood:
    `files_searched: n` makes n search results, `output: text` makes one log output.
    """

    name: ToolName
    details: dict[str, Any] = Field(default_factory=dict)


class ScriptedError(_Part):
    """The error of a failed answer."""

    code: str = "server_error"
    message: str = "The scripted provider was told to fail."


class ScriptedEvent(_Part):
    """An event sent as it is: a string as raw text, anything else as JSON, after `delay_ms`."""

    event: str | None = None
    data: Any = None
    delay_ms: float = Field(default=0, ge=0, allow_inf_nan=False)


class Script(_Part):
    """One scripted answer.

    `rate` is in deltas per second, 0 as fast as possible. `delay_ms` passes before the first delta, or
    before an HTTP answer. `tokens` goes before `text`; without either the canned answer is spoken. With
    `http_status` there is no stream: `body` is sent (a string raw, else JSON). With `events` nothing is
    generated: they are the stream, and of the terminals only `eof`, `reset`, `hang` and `garbage` add to it.
    """

    text: str | None = None
    tokens: int | None = Field(default=None, ge=0, le=MAX_TOKENS)
    rate: float = Field(default=30, ge=0, allow_inf_nan=False)
    delay_ms: float = Field(default=0, ge=0, allow_inf_nan=False)
    usage: ScriptedUsage = Field(default_factory=ScriptedUsage)
    tools: list[ScriptedTool] = Field(default_factory=list)
    citations: list[dict[str, Any]] = Field(default_factory=list)
    http_status: int | None = Field(default=None, ge=200, le=599)
    headers: dict[str, str | int] = Field(default_factory=dict)
    body: Any = None
    terminal: Terminal = "completed"
    error: ScriptedError = Field(default_factory=ScriptedError)
    events: list[ScriptedEvent] | None = None
    match: str | None = None

    @field_validator("headers")
    @classmethod
    def _check_headers(cls, headers: dict[str, str | int]) -> dict[str, str | int]:
        for name, value in headers.items():
            if not _HEADER_NAME.fullmatch(name) or name.lower() in _FRAMING_HEADERS:
                raise ValueError(f"{name!r} cannot be set")
            if isinstance(value, str) and not value.isprintable():
                raise ValueError(f"the value of {name!r} has control characters")
        return headers

    @model_validator(mode="after")
    def _check_body(self) -> "Script":
        if self.body is not None and self.http_status is None:
            raise ValueError("body needs http_status")
        return self


class Directive(NamedTuple):
    """A script found in a user's text, and the question that follows it."""

    script: Script
    question: str


def parse_script(value: Any) -> Script:
    """Check one decoded script of a generation.

    Raises:
        InvalidScript: an unknown member, a wrong type or a value out of range.
    """
    return _parse(value, Script)


def _parse(value: Any, kind: type[S]) -> S:
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(step) for step in first["loc"]) or None
        reason = f"{first['msg']}" if where is None else f"{where}: {first['msg']}"
        raise InvalidScript(f"invalid script: {reason}", where=where) from None


def parse_scripts(value: Any) -> list[Script | StorageScript]:
    """Check a decoded array of scripts of either kind, all or none.

    Raises:
        InvalidScript: not an array, or a script in it is invalid; `where` starts with its index.
    """
    if not isinstance(value, list):
        raise InvalidScript("scripts must be a JSON array")
    scripts: list[Script | StorageScript] = []
    for index, item in enumerate(value):
        try:
            is_of_storage = isinstance(item, dict) and "storage" in item
            scripts.append(_parse(item, StorageScript) if is_of_storage else parse_script(item))
        except InvalidScript as error:
            where = f"[{index}]" if error.where is None else f"[{index}].{error.where}"
            raise InvalidScript(f"script {index}: {error}", where=where) from None
    return scripts


def find_directive(text: str) -> Directive | None:
    """The directive at the start of a user's text, or None if it does not start with one.

    Raises:
        InvalidScript: it starts with `@script`, but no valid script follows.
    """
    start = _DIRECTIVE.match(text)
    if start is None:
        return None
    try:
        value, end = json.JSONDecoder(parse_constant=_refuse_constant).raw_decode(text, start.end())
    except (ValueError, RecursionError) as error:
        raise InvalidScript(f"@script must be followed by a JSON object: {error}") from None
    return Directive(script=parse_script(value), question=text[end:].strip())


def canned_text(question: str) -> str:
    """The answer to a request nobody scripted."""
    quoted = " ".join(question.split())
    if not quoted:
        return "This is the demo provider. You sent no text, so there is nothing to quote."
    if len(quoted) > _QUOTED_CHARACTERS:
        quoted = quoted[:_QUOTED_CHARACTERS] + "…"
    return f"You asked: “{quoted}” This is the demo provider, so here is a canned answer."


class ScriptQueue:
    """Scripts waiting for a request, oldest first."""

    def __init__(self) -> None:
        self._scripts: deque[Script] = deque()

    def __len__(self) -> int:
        return len(self._scripts)

    def add(self, script: Script) -> None:
        """Append a script."""
        self._scripts.append(script)

    def clear(self) -> None:
        """Forget all scripts."""
        self._scripts.clear()

    def take(self, user_text: str) -> Script | None:
        """Remove and return the oldest script that may serve a request with this last user text."""
        for index, script in enumerate(self._scripts):
            if script.match is None or script.match in user_text:
                del self._scripts[index]
                return script
        return None


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")

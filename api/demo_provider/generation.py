"""A generation request as both APIs send it, and the answer that a script makes of it.

Everything here is pure: the question is the text of the last user message, counted tokens are one per
four characters, and the concatenation of an answer's deltas is its text.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import orjson

from api.demo_provider.script import InvalidScript, Script, canned_text, find_directive
from api.demo_provider.wire import ApiError

_WORD = re.compile(r"\s*\S+\s*|\s+")
_CHARACTERS_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class Generation:
    """A parsed request of either API."""

    body: dict[str, Any]
    user_text: str
    prompt_characters: int

    @property
    def is_streaming(self) -> bool:
        """Whether the caller asked for an event stream."""
        return self.body.get("stream") is True

    @property
    def model(self) -> str:
        """The model asked for; any name is served."""
        model = self.body.get("model")
        return model if isinstance(model, str) else "demo"

    @property
    def question(self) -> str:
        """The last user text without a directive before it."""
        try:
            directive = find_directive(self.user_text)
        except InvalidScript:
            return self.user_text
        return self.user_text if directive is None else directive.question


@dataclass(frozen=True, slots=True)
class Answer:
    """What will be said: deltas, and the token counts to report."""

    deltas: Sequence[str]
    input_tokens: int
    output_tokens: int

    @property
    def text(self) -> str:
        """The whole answer."""
        return "".join(self.deltas)


def parse_generation(raw: bytes) -> Generation:
    """Read a request body of either API.

    Raises:
        ApiError: not a JSON object.
    """
    try:
        body = orjson.loads(raw)
    except ValueError as error:
        raise ApiError(f"The body is not valid JSON: {error}", code="invalid_json") from None
    if not isinstance(body, dict):
        raise ApiError("The body must be a JSON object.", code="invalid_json")
    messages = [*_messages(body)]
    user_texts = [text for role, text in messages if role == "user"]
    return Generation(
        body=body,
        user_text=user_texts[-1] if user_texts else "",
        prompt_characters=sum(len(text) for _, text in messages),
    )


def answer_of(generation: Generation, script: Script) -> Answer:
    """The answer that `script` gives to this request."""
    if script.tokens is not None:
        deltas, counted = numbered_words(script.tokens), script.tokens
    else:
        text = canned_text(generation.question) if script.text is None else script.text
        deltas, counted = split_words(text), _estimate_tokens(len(text))
    usage = script.usage
    asked = _estimate_tokens(generation.prompt_characters)
    return Answer(
        deltas=deltas,
        input_tokens=asked if usage.input_tokens is None else usage.input_tokens,
        output_tokens=max(1, counted) if usage.output_tokens is None else usage.output_tokens,
    )


def split_words(text: str) -> Sequence[str]:
    """One delta per word, each with the white space that follows it."""
    return _WORD.findall(text)


@lru_cache(maxsize=4)
def numbered_words(count: int) -> Sequence[str]:
    """`w0 `, `w1 `, … — cached, because a bench asks for the same length a thousand times."""
    return tuple([f"w{index} " for index in range(count)])


def _messages(body: dict[str, Any]) -> Iterator[tuple[str, str]]:
    instructions = body.get("instructions")
    if isinstance(instructions, str):
        yield "system", instructions
    items = body.get("input", body.get("messages"))
    if isinstance(items, str):
        yield "user", items
    for item in items if isinstance(items, list) else ():
        if isinstance(item, dict):
            yield str(item.get("role")), _text_of(item.get("content"))


def _text_of(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else ()
    texts = [part.get("text") for part in parts if isinstance(part, dict)]
    return "\n".join(text for text in texts if isinstance(text, str))


def _estimate_tokens(characters: int) -> int:
    return max(1, -(-characters // _CHARACTERS_PER_TOKEN))

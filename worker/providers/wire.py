"""What the dialects of the OpenAI API have in common: parameters, token counts, decoding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from shared.model_catalog.catalog import CatalogModel
from shared.providers.failures import decode, unreadable
from shared.providers.sanitize import clean_text
from worker.providers.base import GenerationRequest, IncompleteReason, ProviderError, ProviderEvent

DONE_MARK = b"[DONE]"
MOST_COUNTED = 10**15
"""Far beyond what any call can use, so that it is out of the bounds of what is charged."""
_INCOMPLETE_REASONS: Mapping[str, IncompleteReason] = {
    "max_output_tokens": "max_tokens",
    "max_tokens": "max_tokens",
    "length": "max_tokens",
    "content_filter": "content_filter",
}


class Translator(Protocol):
    """Turns one response's server-sent events into ours; pure, one instance per response.

    Both methods raise ProviderError for a failure that the provider reports or amounts to. Nothing may follow a
    `Completed`, so the caller stops there.
    """

    def feed(self, name: str, data: bytes) -> tuple[ProviderEvent, ...]:
        """What one event means: usually one event or nothing."""
        ...

    def finish(self) -> tuple[ProviderEvent, ...]:
        """What the end of the stream means, if it comes before a `Completed`."""
        ...


def decode_object(data: bytes) -> Mapping[str, Any]:
    """The JSON object in `data`.

    Raises:
        ProviderError: it is none; the event mattered and is lost.
    """
    try:
        value = decode(data)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ProviderError.of(unreadable(data))
    return value


def mapping(value: Any) -> Mapping[str, Any]:
    """`value` if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def mappings(value: Any) -> list[Mapping[str, Any]]:
    """The objects in `value` if it is an array, else none."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def text_of(value: Any) -> str:
    """`value`, cleaned, if it is a string, else `""`."""
    return clean_text(value) if isinstance(value, str) else ""


def count(value: Any) -> int:
    """A token count; what is missing or not a count is 0.

    A whole number with a decimal point is one: gateways that rewrite an answer make floats of its integers, and orjson
    makes floats of integers beyond 64 bits. More than `MOST_COUNTED` is told as that, which the database can hold.
    """
    if isinstance(value, float) and not value.is_integer():
        return 0
    return min(max(int(value), 0), MOST_COUNTED) if isinstance(value, int | float) else 0


def incomplete_reason(reason: Any) -> IncompleteReason:
    return _INCOMPLETE_REASONS.get(reason, "other") if isinstance(reason, str) else "other"


def end_user(request: GenerationRequest) -> str:
    """Who is answerable at the provider; generations nobody asked for belong to the tenant's system user."""
    user = request.user_id if request.request_kind == "chat" else "system"
    return f"{request.tenant_id}:{user}"


def sampling_params(model: CatalogModel) -> dict[str, Any]:
    """The catalog's parameters that every dialect spells alike; null ones are left out."""
    params = model.general_config.api_params
    values = params.model_dump(include={"temperature", "top_p", "frequency_penalty", "presence_penalty"})
    sent = {name: value for name, value in values.items() if value is not None}
    if params.stop:
        sent["stop"] = list(params.stop)
    return sent


def with_extra_body(body: dict[str, Any], model: CatalogModel) -> dict[str, Any]:
    """`body` and the catalog's `extra_body`, which may add members but not lift the output cap or the model."""
    return {**body, **{k: v for k, v in (model.general_config.api_params.extra_body or {}).items() if k not in body}}

"""How a failed call is told: one code, a text for clients, a text for operators.

Rate limits, timeouts and an unreachable provider have fixed texts. Everything else shows the provider's own message,
sanitized, or the start of whatever it sent instead. Both texts are cut, so that a hostile body cannot fill a row.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any, Literal

import aiohttp
import httpx2
import openai
import orjson

from shared.errors import UpstreamError
from shared.providers.sanitize import remove_credentials, remove_secret, sanitize_error

FailureCode = Literal["provider_error", "provider_timeout", "rate_limited"]

RATE_LIMITED = "Rate limited by provider"
TIMED_OUT = "Provider request timed out"
UNAVAILABLE = UpstreamError.default_detail
ENDED_EARLY = "Provider ended the answer early"
UNREADABLE = "Provider sent an unreadable answer"

RATE_LIMIT_CODES = frozenset({"rate_limit_exceeded", "rate_limited"})
TIMEOUT_STATUSES = frozenset({408, 504})
MAX_MESSAGE_CHARS = 2_000
MAX_RAW_MESSAGE_CHARS = 200
"""Of a body that has no message of its own."""
MAX_DETAIL_CHARS = 8_000

BROKEN = (openai.APIConnectionError, httpx2.HTTPError, httpx2.StreamError, aiohttp.ClientError, OSError)
"""What a connection that cannot be made or breaks is told by; timeouts are OSErrors or have one as their cause."""


@dataclass(frozen=True, slots=True)
class Failure:
    """What went wrong: `message` is fit for clients, `detail` for operators, and neither holds a credential."""

    code: FailureCode
    message: str
    detail: str = ""
    http_status: int | None = None
    is_outage: bool = False
    """The provider was not there, as against having refused or failed at this request."""

    @property
    def status_label(self) -> str:
        """How metrics call it: the HTTP status, or the code where there was none."""
        return self.code if self.http_status is None else str(self.http_status)


def unreachable(error: BaseException) -> Failure:
    """The connection could not be made or broke: a timeout if that is at the bottom of it."""
    causes = list(_causes(error))
    detail = remove_credentials(f"{type(causes[-1]).__name__}: {causes[-1]}"[:MAX_DETAIL_CHARS])
    if any(isinstance(cause, TimeoutError) for cause in causes):
        return Failure("provider_timeout", TIMED_OUT, detail, is_outage=True)
    return Failure("provider_error", UNAVAILABLE, detail, is_outage=True)


def left_alone() -> Failure:
    """No call was made, because the ones before it have failed."""
    return Failure("provider_error", UNAVAILABLE, "the circuit breaker is open")


def ended_early() -> Failure:
    return Failure("provider_error", ENDED_EARLY, "the stream ended without a terminal event", is_outage=True)


def unreadable(data: bytes) -> Failure:
    return Failure("provider_error", UNREADABLE, _detail(data))


def refused(body: bytes, status: int) -> Failure:
    """An HTTP answer that is no success."""
    try:
        value = decode(body)
    except ValueError:
        value = None
    failure = reported(body, value, http_status=status)
    return replace(failure, is_outage=is_outage_status(status))


def reported(data: bytes, value: object, *, http_status: int | None = None) -> Failure:
    """The failure that a provider described.

    Args:
        data: what it sent, for operators, and for clients if there is no message in it.
        value: `data` decoded, or the part of it that holds the error: `{"error": {"message", "code"}}`,
            `{"error": "..."}`, flat `{"code", "message"}`, or anything.
    """
    message, code = _read(value)
    failure_code = _classify(code, http_status)
    return Failure(
        failure_code,
        _FIXED_MESSAGES.get(failure_code) or _client_message(message, data),
        _detail(data),
        http_status=http_status,
    )


def without_secret(failure: Failure, secret: str | None) -> Failure:
    """`failure` with no text that repeats the key that was sent."""
    return replace(
        failure,
        message=remove_secret(failure.message, secret),
        detail=remove_secret(failure.detail, secret),
    )


def decode(data: bytes) -> Any:
    """The JSON value in `data`, leniently: unpaired surrogates and bytes that are not UTF-8 are let through.

    Raises:
        ValueError: it is not JSON.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        pass
    try:
        return json.loads(data.decode("utf-8", "replace"))
    except RecursionError:
        raise ValueError("nested too deeply") from None


_FIXED_MESSAGES: Mapping[FailureCode, str] = {"rate_limited": RATE_LIMITED, "provider_timeout": TIMED_OUT}


def _classify(code: str | None, http_status: int | None) -> FailureCode:
    if http_status == 429 or code in RATE_LIMIT_CODES:
        return "rate_limited"
    return "provider_timeout" if http_status in TIMEOUT_STATUSES else "provider_error"


def _read(value: object) -> tuple[str | None, str | None]:
    """Message and code, each only if it is a non-empty string."""
    if isinstance(value, Mapping) and value.get("error"):
        value = value["error"]
    if isinstance(value, str):
        return value or None, None
    if not isinstance(value, Mapping):
        return None, None
    return _string(value.get("message")), _string(value.get("code"))


def _string(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _client_message(message: str | None, data: bytes) -> str:
    if message is not None:
        return sanitize_error(message[:MAX_MESSAGE_CHARS]).strip() or UNAVAILABLE
    # Cut after sanitizing: half an id would no longer look like one.
    raw = sanitize_error(data[:MAX_MESSAGE_CHARS].decode("utf-8", "replace"))
    return raw[:MAX_RAW_MESSAGE_CHARS].strip() or UNAVAILABLE


def _detail(data: bytes) -> str:
    return remove_credentials(data[:MAX_DETAIL_CHARS].decode("utf-8", "replace"))


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


def is_outage_status(status: int) -> bool:
    """Whether the provider, or a gateway before it, has failed; else it has understood the call and refused it."""
    return status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in TIMEOUT_STATUSES

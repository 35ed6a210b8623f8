"""How a failed call is told: one code, a text for clients, a text for operators.

Rate limits, timeouts and an unreachable provider have fixed texts. Everything else shows the provider's own message,
sanitized, or the start of whatever it sent instead. Both texts are cut, so that a hostile body cannot fill a row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from shared.errors import UpstreamError
from shared.providers.sanitize import remove_credentials, remove_secret, sanitize_error
from shared.turns.lifecycle import TokenUsage
from worker.providers.base import FailureCode, ProviderError

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


def unreachable(error: BaseException) -> ProviderError:
    """The connection could not be made or broke: a timeout if that is at the bottom of it."""
    causes = list(_causes(error))
    detail = remove_credentials(f"{type(causes[-1]).__name__}: {causes[-1]}"[:MAX_DETAIL_CHARS])
    if any(isinstance(cause, TimeoutError) for cause in causes):
        return ProviderError("provider_timeout", TIMED_OUT, detail)
    return ProviderError("provider_error", UNAVAILABLE, detail)


def ended_early() -> ProviderError:
    return ProviderError("provider_error", ENDED_EARLY, "the stream ended without a terminal event")


def unreadable(data: bytes) -> ProviderError:
    return ProviderError("provider_error", UNREADABLE, _detail(data))


def reported(
    data: bytes,
    value: object,
    *,
    usage: TokenUsage | None = None,
    response_id: str | None = None,
    http_status: int | None = None,
) -> ProviderError:
    """The failure that a provider described.

    Args:
        data: what it sent, for operators, and for clients if there is no message in it.
        value: `data` decoded, or the part of it that holds the error: `{"error": {"message", "code"}}`,
            `{"error": "..."}`, flat `{"code", "message"}`, or anything.
    """
    message, code = _read(value)
    failure_code = _classify(code, http_status)
    return ProviderError(
        failure_code,
        _FIXED_MESSAGES.get(failure_code) or _client_message(message, data),
        _detail(data),
        usage=usage,
        response_id=response_id,
        http_status=http_status,
    )


def without_secret(error: ProviderError, secret: str | None) -> ProviderError:
    """`error`, changed in place: neither text repeats the key that was sent."""
    error.message = remove_secret(error.message, secret)
    error.detail = remove_secret(error.detail, secret)
    error.args = (f"{error.code}: {error.message}",)
    return error


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

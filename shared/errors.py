"""The failures a caller can be told about.

    ChatError
    ├── InvalidError          the request is malformed or breaks a rule of its own
    ├── UnauthenticatedError  no, or no valid, credentials
    ├── ForbiddenError        known, but not allowed, and no resource to hide
    ├── NotFoundError         absent, or not the caller's: the two cannot be told apart
    ├── ConflictError         the resource is in a state that excludes the request
    ├── TooLargeError         more bytes than the limit
    ├── UnsupportedError      a media type or capability that is not available
    ├── UnprocessableError    well formed, yet it cannot be carried out
    ├── ThrottledError        a quota or a rate is used up
    ├── UpstreamError         the provider failed on a request that has no stream
    │   └── UpstreamTimeoutError    it took too long
    └── UnavailableError      a server we need does not answer; worth a retry

`code` is the one vocabulary of problem documents, SSE `error` events, turn rows and metrics. `shared` knows no
HTTP status: `api/problems.py` maps each class to one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class FieldError:
    """One member of a request that was refused: `field` is its dotted path, `message` says why."""

    field: str
    message: str


class ChatError(Exception):
    """A failure with a stable `code` and a `detail` that is fit for clients: no secrets, no provider ids."""

    code: ClassVar[str] = "internal_error"
    default_detail: ClassVar[str] = "An internal error occurred"

    def __init__(self, detail: str | None = None) -> None:
        self.detail = detail or self.default_detail
        super().__init__(self.detail)


class InvalidError(ChatError):
    """The request breaks the contract; `errors` names the members, where there are any."""

    code = "invalid_request"
    default_detail = "The request is invalid"

    def __init__(self, detail: str | None = None, *, errors: Sequence[FieldError] = ()) -> None:
        super().__init__(detail)
        self.errors = tuple(errors)


class UnauthenticatedError(ChatError):
    code = "unauthenticated"
    default_detail = "Valid credentials are required"


class ForbiddenError(ChatError):
    code = "insufficient_permissions"
    default_detail = "Not allowed"


class NotFoundError(ChatError):
    code = "not_found"
    default_detail = "Not found"


class ConflictError(ChatError):
    code = "conflict"
    default_detail = "The resource is in another state"


class TooLargeError(ChatError):
    code = "payload_too_large"
    default_detail = "The request body is too large"


class UnsupportedError(ChatError):
    code = "unsupported"
    default_detail = "Not supported"


class UnprocessableError(ChatError):
    code = "validation_error"
    default_detail = "The request could not be processed"


class ThrottledError(ChatError):
    code = "rate_limited"
    default_detail = "Too many requests"

    def __init__(self, detail: str | None = None, *, retry_after_secs: int | None = None) -> None:
        super().__init__(detail)
        self.retry_after_secs = retry_after_secs


class UpstreamError(ChatError):
    code = "provider_error"
    default_detail = "Provider is currently unavailable"


class UpstreamTimeoutError(UpstreamError):
    code = "provider_timeout"
    default_detail = "The provider took too long"


class UnavailableError(ChatError):
    """A server behind us is away; the caller may repeat the same request after `retry_after_secs`."""

    code = "service_unavailable"
    default_detail = "A required service is unavailable"

    def __init__(self, detail: str | None = None, *, retry_after_secs: int = 2) -> None:
        super().__init__(detail)
        self.retry_after_secs = retry_after_secs

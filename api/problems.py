"""The one place where errors become RFC 9457 problem documents (`application/problem+json`).

`title` repeats `code`, so that clients may read either; `detail` is text for humans, free of input, secrets and
provider ids. `shared` knows no HTTP status: the table below gives each category one, and a subclass has that of its
nearest ancestor.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Annotated, Any, Final, Literal

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException
from starlette.types import Scope

from api.auth import FeatureNotLicensedError
from api.limits.errors import LimitReachedError
from api.schemas import Omittable
from shared.db.engine import is_database_away
from shared.errors import (
    ChatError,
    ConflictError,
    FieldError,
    ForbiddenError,
    InvalidError,
    NotFoundError,
    ThrottledError,
    TooLargeError,
    UnauthenticatedError,
    UnavailableError,
    UnprocessableError,
    UnsupportedError,
    UpstreamError,
    UpstreamTimeoutError,
)
from shared.logs import add_log_fields
from shared.trace import current_trace_id
from shared.valkey.client import REDIS_FAILURE

MEDIA_TYPE: Final = "application/problem+json"
SCHEMA_REF: Final = "#/components/schemas/Problem"

_log = logging.getLogger(__name__)


class MethodNotAllowedError(ChatError):
    code = "method_not_allowed"
    default_detail = "The method is not allowed here"


_STATUS: Final[Mapping[type[ChatError], int]] = {
    InvalidError: 400,
    UnauthenticatedError: 401,
    ForbiddenError: 403,
    NotFoundError: 404,
    MethodNotAllowedError: 405,
    ConflictError: 409,
    TooLargeError: 413,
    UnsupportedError: 415,
    UnprocessableError: 422,
    ThrottledError: 429,
    ChatError: 500,
    UpstreamError: 502,
    UnavailableError: 503,
    UpstreamTimeoutError: 504,
}

_ANY_ROUTE: Final[tuple[type[ChatError], ...]] = (
    InvalidError,
    UnauthenticatedError,
    ForbiddenError,
    FeatureNotLicensedError,
    ThrottledError,
    UnavailableError,
    ChatError,
)

_RETRY_AFTER: Final[Mapping[str, Any]] = {
    "headers": {
        "Retry-After": {"description": "Seconds to wait, if that helps.", "schema": {"type": "integer", "minimum": 0}}
    }
}
_DESCRIBED_HEADERS: Final[Mapping[int, Mapping[str, Any]]] = {
    401: {"headers": {"WWW-Authenticate": {"schema": {"type": "string"}}}},
    429: _RETRY_AFTER,
    503: _RETRY_AFTER,
}

_IN_WORDS_OF_JSON: Final[Mapping[str, str]] = {
    "model_attributes_type": "must be an object",
    "tuple_type": "must be an array",
    "uuid_type": "must be a hyphenated UUID",
}
"""Of what Pydantic tells in words of Python."""


class ProblemField(BaseModel):
    """A member of the request that was refused."""

    field: str
    message: str


class Problem(BaseModel):
    """Why a request failed."""

    model_config = ConfigDict(frozen=True)

    type: Literal["about:blank"]
    title: Annotated[str, Field(description="The same as `code`.")]
    status: int
    detail: str
    instance: Annotated[str, Field(description="The path of the request.")]
    code: Annotated[str, Field(description="What went wrong, for machines.")]
    trace_id: Omittable[str] = None
    quota_scope: Annotated[
        Omittable[str], Field(description="Which quota is used up, if `code` is quota_exceeded.")
    ] = None
    errors: Omittable[tuple[ProblemField, ...]] = None


def status_of(error: ChatError | type[ChatError]) -> int:
    """The status of the nearest mapped ancestor, so that a new subclass needs no new row."""
    kind = error if isinstance(error, type) else type(error)
    return next(_STATUS[cls] for cls in kind.__mro__ if cls in _STATUS)


def problem_response(error: ChatError, scope: Scope) -> Response:
    """The answer that tells a client of `error`; the request's line in the log will tell its code."""
    status = status_of(error)
    add_log_fields(status="error", error_code=error.code)
    errors = [ProblemField(field=item.field, message=item.message) for item in getattr(error, "errors", ())]
    problem = Problem(
        type="about:blank",
        title=error.code,
        status=status,
        detail=error.detail,
        instance=_path_of(scope),
        code=error.code,
        trace_id=current_trace_id(),
        quota_scope=getattr(error, "quota_scope", None),
        errors=tuple(errors) or None,
    )
    return Response(problem.model_dump_json(), status, headers=_headers_for(error, status), media_type=MEDIA_TYPE)


def as_chat_error(error: Exception) -> ChatError:
    """What a client is told of any exception: an unforeseen one is logged here, and hidden."""
    match error:
        case ChatError():
            return error
        case RequestValidationError():
            return InvalidError(errors=[_field_error(item) for item in error.errors()])
        case HTTPException():
            return _from_http(error)
    if is_database_away(error) or isinstance(error, (*REDIS_FAILURE, PoolTimeoutError)):
        _log.warning("a required service is away: %s", type(error).__name__, exc_info=error)
        return UnavailableError()
    _log.error("unhandled error", exc_info=error, extra={"status": "error", "error_code": ChatError.code})
    return ChatError()


def install_handlers(app: FastAPI) -> None:
    """Answer the errors that routes raise on purpose; all others rise to `RequestMiddleware`."""

    async def answer(request: Request, error: Exception) -> Response:
        response = problem_response(as_chat_error(error), request.scope)
        if response.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            response.headers["Allow"] = ", ".join(_allowed_methods(app, request.scope["path"]))
        return response

    for kind in (ChatError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, answer)


def problem_responses(*errors: type[ChatError]) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI `responses` of a route that may fail with `errors`, besides what any route may fail with."""
    codes: dict[int, set[str]] = {}
    for error in (*errors, *_ANY_ROUTE):
        codes.setdefault(status_of(error), set()).add(error.code)
    content = {MEDIA_TYPE: {"schema": {"$ref": SCHEMA_REF}}}
    described: dict[int | str, dict[str, Any]] = {
        status: {"description": ", ".join(sorted(names)), "content": content, **_DESCRIBED_HEADERS.get(status, {})}
        for status, names in sorted(codes.items())
    }
    # Also keeps FastAPI from documenting a 422 that is never sent: a bad request is a 400 here.
    described["default"] = {"description": "Any other failure", "content": content}
    return described


def _from_http(error: HTTPException) -> ChatError:
    match error.status_code:
        case 404:
            return NotFoundError()
        case 405:
            return MethodNotAllowedError()
        case 413:
            return TooLargeError()
        case status if status < HTTPStatus.INTERNAL_SERVER_ERROR:
            return InvalidError(error.detail)
    return ChatError()


def _field_error(item: Mapping[str, Any]) -> FieldError:
    """Pydantic's account of one member, without the place it came from and without the value."""
    where, *path = item["loc"]
    is_syntax = item["type"] == "json_invalid"
    field = ".".join(str(part) for part in path) if path and not is_syntax else str(where)
    if isinstance(item["input"], bytes):
        return FieldError(field, "must be declared as JSON by a Content-Type of application/json")
    return FieldError(field, _IN_WORDS_OF_JSON.get(item["type"]) or str(item["msg"]).removeprefix("Value error, "))


def _headers_for(error: ChatError, status: int) -> dict[str, str]:
    headers = {}
    if status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    retry_after = getattr(error, "retry_after_secs", None)
    if retry_after is not None:
        headers["Retry-After"] = str(retry_after)
    if isinstance(error, LimitReachedError):
        headers |= error.fields
    return headers


def _allowed_methods(app: FastAPI, path: str) -> list[str]:
    """Every method that some route takes on `path`; the framework names only those of the first route it met."""
    routes = (route for route in iter_route_contexts(app.routes) if route.path_regex.match(path))
    return sorted({method for route in routes for method in route.methods or ()})


def _path_of(scope: Scope) -> str:
    raw: bytes | None = scope.get("raw_path")
    return raw.decode("latin-1").partition("?")[0] if raw else str(scope["path"])

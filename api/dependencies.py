"""What routes ask for by type: the process's context, the caller, and ids from the path.

A caller without the permission for a chat's resource learns nothing about the chat: the answer is that of a chat
that does not exist. Only operations without a chat tell that the permission is missing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Depends, Path, Request, Security
from fastapi.security import APIKeyCookie, HTTPAuthorizationCredentials, HTTPBearer

from api.auth import Action, FeatureNotLicensedError, Principal
from api.context import ApiContext
from api.schemas import HYPHENATED
from shared.chats.errors import ChatNotFoundError
from shared.errors import ForbiddenError, UnauthenticatedError
from shared.ids import AttachmentId, ChatId, MessageId, RequestId
from shared.logs import add_log_fields

_BEGINS_A_TURN = frozenset({Action.SEND_MESSAGE, Action.RETRY_TURN, Action.EDIT_TURN})

TOKEN_COOKIE = "mini_chat_token"  # noqa: S105 (the cookie's name)

_LOGGED_PATH_PARAMS = frozenset({"chat_id", "request_id"})

_bearer = HTTPBearer(bearerFormat="JWT", scheme_name="bearer", auto_error=False)
_cookie = APIKeyCookie(name=TOKEN_COOKIE, scheme_name="cookie", auto_error=False)


def context_of(request: Request) -> ApiContext:
    context = request.app.state.context
    assert isinstance(context, ApiContext)  # noqa: S101 (for the type checker: the lifespan put it there)
    return context


async def authenticate(request: Request, *, with_cookie: bool = False) -> Principal:
    """The caller, verified once a request.

    Raises:
        UnauthenticatedError: no valid token.
    """
    known: Principal | None = getattr(request.state, "principal", None)
    if known is not None:
        return known
    token = _token_of(request, with_cookie=with_cookie)
    principal = await context_of(request).authenticator.authenticate(token)
    request.state.principal = principal
    add_log_fields(
        tenant_id=str(principal.tenant_id),
        user_id=str(principal.user_id),
        requester_type="user",
        **{name: value for name, value in request.path_params.items() if name in _LOGGED_PATH_PARAMS},
    )
    return principal


def require(action: Action, *, with_cookie: bool = False) -> Callable[..., Awaitable[Principal]]:
    """A dependency: the caller, once they are known to be allowed `action`.

    Args:
        with_cookie: also take the token from the cookie `mini_chat_token`, for browsers' `EventSource`.

    Raises:
        UnauthenticatedError: no valid token.
        FeatureNotLicensedError: the tenant lacks the configured feature.
        ChatNotFoundError: not allowed, and the path names a chat.
        ForbiddenError: not allowed, and nothing to hide.
        LimitReachedError: too many requests; those for a turn are counted later, and only if it is a new one.
    """

    async def authorize(
        request: Request,
        _header: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
    ) -> Principal:
        principal = await authenticate(request, with_cookie=with_cookie)
        feature = context_of(request).settings.auth.license_feature
        if feature and feature not in principal.features:
            raise FeatureNotLicensedError
        if action not in principal.permissions:
            raise ChatNotFoundError if "chat_id" in request.path_params else ForbiddenError
        if action not in _BEGINS_A_TURN:
            await context_of(request).limiter.count(principal)
        return principal

    async def authorize_with_cookie(
        request: Request,
        header: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
        _token: Annotated[str | None, Security(_cookie)],
    ) -> Principal:
        return await authorize(request, header)

    return authorize_with_cookie if with_cookie else authorize


def _token_of(request: Request, *, with_cookie: bool) -> str | None:
    headers = request.headers.getlist("Authorization")
    if not headers:
        return request.cookies.get(TOKEN_COOKIE) if with_cookie else None
    scheme, _, token = headers[0].strip().partition(" ")
    if len(headers) > 1 or scheme.lower() != "bearer":
        raise UnauthenticatedError
    return token.strip() or None


Context = Annotated[ApiContext, Depends(context_of)]

ChatIdPath = Annotated[ChatId, HYPHENATED, Path(description="The chat.")]
RequestIdPath = Annotated[RequestId, HYPHENATED, Path(description="The turn.")]
MessageIdPath = Annotated[MessageId, HYPHENATED, Path(description="The message.")]
AttachmentIdPath = Annotated[AttachmentId, HYPHENATED, Path(description="The attachment.")]

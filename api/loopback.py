"""Keeps web pages of strangers away from a server that asks for no token (`auth.mode: dev`).

Such a server listens on loopback only, but so does the browser of whoever runs it. A page may post to it from anywhere,
or have its own name resolve to 127.0.0.1 and so become "the same origin" (DNS rebinding). The browser tells on both: by
the name in `Host`, and by the `Origin` of the page.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from shared.errors import ForbiddenError
from shared.settings import is_loopback

_LOCAL_SUFFIX: Final = ".localhost"


class LoopbackOnly:
    """Around the routes: refuses what was not asked of this machine by its own name, or from another site's page."""

    def __init__(self, app: ASGIApp, *, allow_origins: Sequence[str]) -> None:
        self._app = app
        self._allow_origins = frozenset(allow_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            host = headers.get("host")
            # Every browser names a host; who names none is no page.
            if host is not None and not _is_local(f"//{host}"):
                raise ForbiddenError("In dev mode, only requests to this machine by its own name are answered")
            origin = headers.get("origin")
            if origin is not None and origin not in self._allow_origins and not _is_local(origin):
                raise ForbiddenError("In dev mode, pages of other sites may not call this server")
        await self._app(scope, receive, send)


def _is_local(url: str) -> bool:
    try:
        host = urlsplit(url).hostname
    except ValueError:
        return False
    if host is None:
        return False
    name = host.removesuffix(".")
    return is_loopback(name) or name.endswith(_LOCAL_SUFFIX)

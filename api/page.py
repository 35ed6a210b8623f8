"""The chat page at `{prefix}/`: static files that Vite has built from `api/web`, held in memory.

The address of an asset contains a hash of it, so that browsers keep it for ever; the document that names them is asked
for anew each time, and tells the page where the API is. The policy forbids whatever the page does not do: inline
scripts and styles, requests to anyone but this server, being framed, and HTML made from strings outside the sanitizer.
"""

from __future__ import annotations

import html
import json
import logging
import mimetypes
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Self

from fastapi import APIRouter, Header
from starlette.responses import RedirectResponse, Response

from shared.errors import NotFoundError
from shared.settings import Settings

DIST: Final = Path(__file__).parent / "web" / "dist"

# The server lets a stream be silent for an interval of pings, give or take this.
_PING_JITTER_SECS: Final = 2

_ENCODINGS: Final = {"br": ".br", "gzip": ".gz"}
"""Content codings in the order of preference, and the endings of the files that the build has packed so."""

_NO_SNIFF: Final = {"X-Content-Type-Options": "nosniff"}
_ASSET_HEADERS: Final = _NO_SNIFF | {"Cache-Control": "public, max-age=31536000, immutable", "Vary": "Accept-Encoding"}
_DOCUMENT_HEADERS: Final = _NO_SNIFF | {
    "Cache-Control": "no-cache",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Content-Security-Policy": "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "img-src 'self' blob: data:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types dompurify",
        )
    ),
}
_CONFIG_PLACE: Final = '<meta name="mini-chat" content="{}" />'

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Asset:
    """A file under every content coding that there is of it; `""` is the file itself."""

    media_type: str
    bodies: Mapping[str, bytes]

    @classmethod
    def read(cls, path: Path) -> Self:
        packed = {name: path.with_name(path.name + ending) for name, ending in _ENCODINGS.items()}
        bodies = {name: file.read_bytes() for name, file in packed.items() if file.exists()}
        media_type = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        return cls(media_type, {**bodies, "": path.read_bytes()})

    def response(self, accept_encoding: str) -> Response:
        coding = next(name for name in self.bodies if not name or _accepts(accept_encoding, name))
        headers = _ASSET_HEADERS | ({"Content-Encoding": coding} if coding else {})
        return Response(self.bodies[coding], headers=headers, media_type=self.media_type)


def page_router(settings: Settings, *, dist: Path = DIST) -> APIRouter:
    """The routes of the page: none if it is switched off, or if this checkout has not built it."""
    router = APIRouter(include_in_schema=False)
    if not settings.page.enabled:
        return router
    if not (dist / "index.html").exists():
        _log.warning("the page is not served: it has not been built (`make page`)")
        return router
    document = _document(settings, dist)
    assets = {
        path.name: Asset.read(path) for path in (dist / "assets").iterdir() if path.suffix not in _ENCODINGS.values()
    }

    @router.api_route("/", methods=["GET", "HEAD"])
    async def get_page() -> Response:
        return Response(document, headers=_DOCUMENT_HEADERS, media_type="text/html")

    @router.api_route("/assets/{name}", methods=["GET", "HEAD"])
    async def get_asset(name: str, accept_encoding: Annotated[str, Header()] = "") -> Response:
        asset = assets.get(name)
        if asset is None:
            raise NotFoundError
        return asset.response(accept_encoding)

    if settings.prefix:

        @router.api_route("", methods=["GET", "HEAD"])
        async def go_to_page() -> Response:
            return RedirectResponse(f"{settings.prefix}/", 308)

    return router


def _document(settings: Settings, dist: Path) -> bytes:
    config = {
        "basePath": settings.prefix + settings.base_path,
        "auth": settings.auth.mode,
        "maxSilenceSecs": settings.streaming.sse_ping_interval_seconds + _PING_JITTER_SECS,
    }
    template = (dist / "index.html").read_text(encoding="utf-8")
    filled = template.replace(_CONFIG_PLACE, f'<meta name="mini-chat" content="{html.escape(json.dumps(config))}" />')
    return filled.encode()


def _accepts(accept_encoding: str, coding: str) -> bool:
    """RFC 9110, 12.5.3, for the codings that are named; `*` is not worth the trouble."""
    for item in accept_encoding.lower().split(","):
        name, _, weight = item.partition(";")
        if name.strip() == coding:
            return weight.strip().removeprefix("q=") not in ("0", "0.0", "0.00", "0.000")
    return False

"""The route class of everything that takes a JSON body.

A body is read only for a caller who could be authenticated, up to `MAX_BODY_BYTES`, counted as it arrives. It must be
JSON in UTF-8 whose strings PostgreSQL and UTF-8 can hold: neither U+0000 nor an unpaired surrogate, escaped or not.
The rest of a body that was refused is discarded as it comes in, so that the client gets to read the answer.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, Final

import orjson
from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from api.dependencies import authenticate

MAX_BODY_BYTES: Final = 16 * 1024 * 1024
"""Enough for a message far over any model's limit to be refused by its tokens and not by its bytes."""

# A backslash stands only for an escape in JSON, so that an even run of them leaves the next one in force.
_ESCAPED_NUL: Final = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


class JsonRoute(APIRoute):
    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        if self.body_field is None:
            return handle

        async def handle_json(request: Request) -> Response:
            await authenticate(request)
            return await handle(_JsonRequest(request.scope, request.receive))

        return handle_json


class _JsonRequest(Request):
    """What it raises are HTTP exceptions: any other would be taken for a failure of the parser."""

    async def stream(self) -> AsyncGenerator[bytes, None]:
        declared = self.headers.get("Content-Length", "")
        if declared.isascii() and declared.isdecimal() and int(declared) > MAX_BODY_BYTES:
            raise HTTPException(413)
        size = 0
        async for chunk in super().stream():
            size += len(chunk)
            if size > MAX_BODY_BYTES:
                raise HTTPException(413)
            yield chunk

    async def json(self) -> Any:
        body = await self.body()
        try:
            tree = orjson.loads(body)
        except orjson.JSONDecodeError:
            raise HTTPException(400, "The body must be JSON in UTF-8 without unpaired surrogates") from None
        if _ESCAPED_NUL.search(body):
            raise HTTPException(400, "The body must not contain U+0000")
        return tree

"""Reading what a provider answers below the SDK's types, which compatible servers do not all fit."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Final

import httpx2

_RAW: Final = {"X-Stainless-Raw-Response": "stream"}
"""How the SDK is told to leave the body alone."""
STREAMED: Final[Mapping[str, str]] = {"Accept": "text/event-stream", **_RAW}
WHOLE: Final[Mapping[str, str]] = {"Accept": "application/json", **_RAW}
MAX_ANSWER_BYTES: Final = 16 * 1024 * 1024
"""Of an answer that is not streamed; more cannot be one."""


async def beginning(response: httpx2.Response, limit: int) -> bytes:
    """The body, or about its first `limit` bytes; the caller closes the response."""
    body = bytearray()
    async with contextlib.aclosing(response.aiter_bytes()) as chunks:
        async for chunk in chunks:
            body += chunk
            if len(body) >= limit:
                break
    return bytes(body)

"""The way from a client to the API: whether streams pass it as they are sent, and may be silent for long enough.

The API is asked for a stream of events at known times (`/healthz/stream`). What counts is not how long an event takes,
but how much later than the quickest of them it comes: events that are held back come late together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from statistics import median
from typing import Final

import aiohttp
import orjson

from shared.doctor.findings import Finding, fail, ok, warn
from shared.providers.sse import SseParser

TICKS: Final = 8
INTERVAL_MS: Final = 250
HELD_BACK_SECS: Final = INTERVAL_MS / 1000
"""As late as half of the events may be: a proxy that gathers them makes the early ones later than that."""
MARGIN_SECS: Final = 20.0

_UNBUFFER: Final = (
    "let proxies pass streams on at once: nginx proxy_buffering off and proxy_http_version 1.1 (and no"
    " proxy_ignore_headers X-Accel-Buffering), no compression or caching of text/event-stream, CDNs likewise"
)


@dataclass(slots=True)
class Passage:
    """What came through."""

    status: int
    encoding: str | None = None
    lateness: list[float] = field(default_factory=list)
    """Of each event, in seconds, from the request on: with everything that is no fault of the way in it."""
    has_ended: bool = False
    silence: float = 0.0
    """Between the last event and the end of the connection."""


async def measure(session: aiohttp.ClientSession, url: str, *, silence_secs: int) -> Passage:
    """Ask for timed events and time them. Raises aiohttp.ClientError if there is no answer at all."""
    now = asyncio.get_running_loop().time
    parameters = {"events": TICKS, "interval_ms": INTERVAL_MS, "silence_secs": silence_secs}
    # As browsers ask: a proxy that compresses streams for them must be found.
    headers = {"Accept": "text/event-stream", "Accept-Encoding": "gzip"}
    timeout = aiohttp.ClientTimeout(total=TICKS * INTERVAL_MS / 1000 + silence_secs + MARGIN_SECS)
    asked_at = heard_at = now()
    async with session.get(url, params=parameters, headers=headers, timeout=timeout) as response:
        passage = Passage(response.status, response.headers.get("Content-Encoding"))
        parser = SseParser()
        try:
            async for chunk in response.content.iter_any():
                for name, data in parser.feed(chunk):
                    heard_at = now()
                    passage.lateness.append(heard_at - asked_at - orjson.loads(data)["elapsed_ms"] / 1000)
                    passage.has_ended = name == "end"
        except (aiohttp.ClientError, TimeoutError):
            pass  # a connection that was cut: `has_ended` says so
        passage.silence = now() - heard_at
    return passage


def judge(passage: Passage, *, silence_secs: int) -> Iterator[Finding]:
    if passage.status == HTTPStatus.NOT_FOUND:
        yield warn("stream", "the API does not know /healthz/stream", "check --url and `prefix`, or update the API")
        return
    if passage.status == HTTPStatus.GATEWAY_TIMEOUT:
        yield _cut(silence_secs, "a proxy answers 504 instead")
        return
    if passage.status != HTTPStatus.OK:
        yield fail("stream", f"is answered with {passage.status}", "look into the logs of proxies and API")
        return
    yield _judge_buffering(passage)
    if passage.encoding not in (None, "identity"):
        yield warn("stream compression", f"a proxy compresses streams ({passage.encoding})", _UNBUFFER)
    if passage.has_ended:
        yield ok("stream silence", f"{silence_secs} s without a word pass")
    else:
        yield _cut(silence_secs, f"cut after {passage.silence:.1f} s without a word")


def _judge_buffering(passage: Passage) -> Finding:
    if not passage.lateness:
        return fail("stream buffering", "the answer began, and not one event of it came", _UNBUFFER)
    quickest = min(passage.lateness)
    delays = sorted(late - quickest for late in passage.lateness)
    seen = f"events come up to {delays[-1]:.2f} s late (half of them more than {median(delays):.2f} s)"
    if median(delays) >= HELD_BACK_SECS:
        return fail("stream buffering", f"something on the way holds events back: {seen}", _UNBUFFER)
    return ok("stream buffering", f"none: {seen}")


def _cut(silence_secs: int, seen: str) -> Finding:
    change = (
        f"let connections be silent for more than {silence_secs} s: nginx proxy_read_timeout, Envoy stream_idle_timeout"
        " and the route's timeout, the idle timeout of load balancers; or lower streaming.sse_ping_interval_seconds"
    )
    return fail("stream silence", f"{seen}; a stream may say nothing for {silence_secs} s", change)

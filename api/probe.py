"""A stream without a turn: events at known times, then silence, then an end, to measure the way to a client.

`mini-chat doctor` asks for it through the proxies of a deployment. It is open to everybody, as the health checks are: a
broken proxy must be found before anybody can log in. It tells nothing, reads nothing, and costs a timer an event; how
long one lasts and how many there are at a time is bounded.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from starlette.responses import StreamingResponse

from api.sse import SSE_HEADERS
from shared.errors import UnavailableError
from shared.events.frames import encode

MOST_EVENTS: Final = 20
LONGEST_INTERVAL_MS: Final = 500
LONGEST_SILENCE_SECS: Final = 70
"""More than the longest that a stream ever says nothing (`streaming.sse_ping_interval_seconds`)."""


@dataclass
class Probes:
    """The streams of this kind that are open in this process."""

    at_most: int = 16
    open: int = 0


def timed_events(
    probes: Probes, draining: asyncio.Event, *, events: int, interval_ms: int, silence_secs: int
) -> StreamingResponse:
    """So many `tick` events, one every `interval_ms`, and an `end` after the silence; the end comes early in a drain.

    Raises:
        UnavailableError: too many are open already.
    """
    if probes.open >= probes.at_most:
        raise UnavailableError("Too many measurements are under way")
    pauses = [0.0] + [interval_ms / 1000] * (events - 1) + [float(silence_secs)]
    return StreamingResponse(_frames(probes, draining, pauses), headers=SSE_HEADERS)


async def _frames(probes: Probes, draining: asyncio.Event, pauses: list[float]) -> AsyncIterator[bytes]:
    now = asyncio.get_running_loop().time
    began = now()
    probes.open += 1
    try:
        for number, pause in enumerate(pauses, start=1):
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await draining.wait()
            name = "end" if number == len(pauses) else "tick"
            yield encode(name, {"elapsed_ms": round((now() - began) * 1000)}).with_id(number)
    finally:
        probes.open -= 1

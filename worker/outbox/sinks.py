"""Where usage and audit events go: into the log, or to a URL, as the settings say.

At a URL any 2xx is a delivery. Everything else is tried again until the attempts are used up, redirects included: an
event is not to be sent to an address that nobody configured.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, Protocol

import aiohttp
import orjson

from shared.clock import Clock
from shared.metrics import Metrics
from shared.outbox.messages import AUDIT
from shared.outbox.repository import Message
from shared.outbox.webhooks import signature_headers, signing_key
from shared.settings import SinkSettings

TIMEOUT: Final = aiohttp.ClientTimeout(total=15, connect=5)
_MOST_READ: Final = 65_536
"""A longer answer costs the connection rather than our time."""

_events = logging.getLogger("mini_chat.events")


class DeliveryError(Exception):
    """The receiver has not taken the event."""


class Sink(Protocol):
    async def send(self, message: Message) -> None:
        """Raises whatever keeps the event from being delivered."""
        ...


class LogSink:
    """One line for each event, with the event as its member `event`."""

    def __init__(self) -> None:
        # The log is the destination here: a higher log level must not make events vanish.
        _events.setLevel(logging.INFO)

    async def send(self, message: Message) -> None:
        _events.info(message.queue, extra={"event": message.payload, "event_id": event_id(message)})


class HttpSink:
    def __init__(self, client: aiohttp.ClientSession, *, url: str, key: bytes, clock: Clock) -> None:
        self._client = client
        self._url = url
        self._key = key
        self._clock = clock

    async def send(self, message: Message) -> None:
        body = orjson.dumps(message.payload)
        timestamp = int(self._clock.now().timestamp())
        headers = signature_headers(self._key, message_id=event_id(message), timestamp=timestamp, body=body)
        headers["content-type"] = "application/json"
        try:
            async with self._client.post(self._url, data=body, headers=headers, allow_redirects=False) as response:
                await response.content.read(_MOST_READ)  # so that the connection can be used again
                status = response.status
        except aiohttp.ClientError as error:
            # Its text can show the URL, which can hold credentials.
            raise DeliveryError(f"no answer: {type(error).__name__}") from None
        if not 200 <= status < 300:
            raise DeliveryError(f"answered {status}")


class SinkHandler:
    """Delivers one queue to a sink."""

    def __init__(self, queue: str, sink: Sink, *, max_attempts: int, metrics: Metrics) -> None:
        self.queue = queue
        self.max_attempts = max_attempts
        self._sink = sink
        self._audit_emit = metrics.audit_emit if queue == AUDIT else None

    async def handle(self, message: Message) -> None:
        try:
            await self._sink.send(message)
        except Exception:
            self._count("dropped" if message.attempts + 1 >= self.max_attempts else "failed")
            raise
        self._count("ok")

    def _count(self, result: str) -> None:
        if self._audit_emit is not None:
            self._audit_emit.labels(result=result).inc()


def event_id(message: Message) -> str:
    """What receivers tell repetitions by."""
    return message.dedupe_key or str(message.id)


@asynccontextmanager
async def open_sink(settings: SinkSettings, *, clock: Clock) -> AsyncIterator[Sink]:
    if settings.kind == "log" or settings.url is None or settings.secret is None:
        yield LogSink()
        return
    async with aiohttp.ClientSession(
        timeout=TIMEOUT,
        cookie_jar=aiohttp.DummyCookieJar(),
        connector=aiohttp.TCPConnector(limit=0),  # delivery limits how many are under way
    ) as client:
        key = signing_key(settings.secret.get_secret_value())
        yield HttpSink(client, url=settings.url, key=key, clock=clock)

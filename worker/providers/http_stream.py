"""One generation over HTTP: the SDK sends it, the response is read raw.

The SDK's typed event loop costs several times as much per delta and stumbles over what compatible servers send, so
its part ends with the response's head. One read may complete many events; they wait in order in a queue.

Four limits of time apply, in seconds: `connect`; `first_event` from sending to the first server-sent event; `idle`
between two of them, while somebody waits for it; `total` over everything, the wait of a retry included. Comments are
no events. The only retry is that of a 429 which asks to come back within 10 s, once, and nothing came before it.

An answer that is not streamed has no events: `connect` and `total` are its limits.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx2
import openai
import orjson

from shared.model_catalog.catalog import ProviderTimeouts
from shared.providers.answers import MAX_ANSWER_BYTES, STREAMED, WHOLE, beginning
from shared.providers.client import ProviderClient
from shared.providers.failures import BROKEN, refused, unreachable, unreadable, without_secret
from shared.providers.sse import EventTooLargeError, ServerEvent, SseParser
from shared.tasks import BackgroundTasks
from worker.providers.base import (
    Completed,
    Completion,
    GenerationRequest,
    ProviderError,
    ProviderEvent,
    ProviderStream,
)
from worker.providers.lazy_timeout import LazyTimeout
from worker.providers.wire import Translator

T = TypeVar("T")

DRAIN_SECS = 2
"""How long a finished response may take to end, so that its connection can serve the next one."""
MAX_RETRY_DELAY_SECS = 10
MAX_ERROR_BODY_BYTES = 64 * 1024
_ONLY_STREAMED = frozenset({"stream", "stream_options"})
_FAILURES = (ProviderError, openai.APIStatusError, EventTooLargeError, *BROKEN)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Dialect:
    """What distinguishes one kind of provider from another."""

    build_body: Callable[[GenerationRequest], dict[str, Any]]
    translator: Callable[[], Translator]
    read_answer: Callable[[bytes], Completion]
    """What an answer that was not streamed says; raises ProviderError if it says that there is none."""


class HttpProvider:
    """A provider behind one client; many calls at a time."""

    def __init__(self, client: ProviderClient, dialect: Dialect, *, on_retry: Callable[[], object]) -> None:
        """
        Args:
            on_retry: called before a call is sent again because of a 429.
        """
        self._client = client
        self._dialect = dialect
        self._on_retry = on_retry
        self._draining = BackgroundTasks()
        self._finished: set[HttpStream] = set()

    @asynccontextmanager
    async def open(
        self, request: GenerationRequest, *, on_requested: Callable[[], object]
    ) -> AsyncIterator[ProviderStream]:
        """See `Provider.open`. A finished response is drained in the background, any other is dropped at once."""
        path = self._client.path.request_for(request.model.provider_model_id)
        body = orjson.dumps(self._dialect.build_body(request))
        total_by = asyncio.get_running_loop().time() + self._client.timeouts.total
        on_requested()
        try:
            stream = await self._with_one_retry(lambda: self._attempt(path, body, total_by), total_by)
        except _FAILURES as error:
            raise _told(error, self._client.secret) from None  # the cause repeats the provider's text
        try:
            yield stream
        finally:
            if stream.has_completed:
                self._finished.add(stream)
                self._draining.spawn(self._drain(stream), name="provider-drain")
            else:
                await stream.aclose()

    async def complete(self, request: GenerationRequest, *, on_requested: Callable[[], object]) -> Completion:
        """See `Provider.complete`."""
        path = self._client.path.request_for(request.model.provider_model_id)
        streamed = self._dialect.build_body(request)
        kept = {name: value for name, value in streamed.items() if name not in _ONLY_STREAMED}
        body = orjson.dumps(kept | {"stream": False})
        total_by = asyncio.get_running_loop().time() + self._client.timeouts.total
        on_requested()
        try:
            data = await self._with_one_retry(lambda: self._fetch(path, body), total_by)
            return self._dialect.read_answer(data)
        except _FAILURES as error:
            raise _told(error, self._client.secret) from None  # the cause repeats the provider's text

    async def aclose(self) -> None:
        await self._draining.aclose()
        while self._finished:  # a task that is cancelled before its first step closes nothing
            await self._finished.pop().aclose()

    async def _with_one_retry(self, attempt: Callable[[], Awaitable[T]], total_by: float) -> T:
        """What `attempt` gives, the second one if the first was told to come back soon."""
        async with asyncio.timeout_at(total_by):
            try:
                return await attempt()
            except openai.RateLimitError as error:
                delay = retry_delay(error.response.headers.get("retry-after"), now=time.time())
                if delay is None:
                    raise
            await asyncio.sleep(delay)
            self._on_retry()
            return await attempt()

    async def _drain(self, stream: HttpStream) -> None:
        await stream.drain()
        self._finished.discard(stream)

    async def _fetch(self, path: str, body: bytes) -> bytes:
        response = await self._client.openai.post(
            path, cast_to=httpx2.Response, content=body, options={"headers": WHOLE}
        )
        try:
            return await beginning(response, MAX_ANSWER_BYTES)
        finally:
            await response.aclose()

    async def _attempt(self, path: str, body: bytes, total_by: float) -> HttpStream:
        timeouts = self._client.timeouts
        first_event_by = asyncio.get_running_loop().time() + timeouts.first_event
        async with asyncio.timeout_at(first_event_by):
            response = await self._client.openai.post(
                path, cast_to=httpx2.Response, content=body, options={"headers": STREAMED}
            )
            await _require_event_stream(response)
        return HttpStream(
            response,
            self._dialect.translator(),
            timeouts=timeouts,
            first_event_by=first_event_by,
            total_by=total_by,
            secret=self._client.secret,
        )


class HttpStream:
    """The events of one response. For one reader; it raises every failure after the events that preceded it."""

    def __init__(
        self,
        response: httpx2.Response,
        translator: Translator,
        *,
        timeouts: ProviderTimeouts,
        first_event_by: float,
        total_by: float,
        secret: str | None,
    ) -> None:
        self._response = response
        self._chunks = response.aiter_bytes()
        self._translator = translator
        self._idle_secs = timeouts.idle
        self._first_event_by: float | None = first_event_by
        self._total_by = total_by
        self._secret = secret
        self._timeout = LazyTimeout()
        self._parser = SseParser()
        self._pending: deque[ProviderEvent] = deque()
        self._failure: ProviderError | None = None
        self.has_completed = False

    def __aiter__(self) -> HttpStream:
        return self

    async def __anext__(self) -> ProviderEvent:
        while not self._pending:
            if self._failure is not None:
                raise self._failure
            if self.has_completed:
                raise StopAsyncIteration
            await self._fill()
        return self._pending.popleft()

    async def drain(self) -> None:
        """Read to the end so that the connection can be used again, but not for long; then close."""
        try:
            async with asyncio.timeout(DRAIN_SECS):
                async for _ in self._chunks:
                    pass
        except BROKEN as error:
            _log.debug("finished response not drained: %s", type(error).__name__)
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        """Drop the connection, unless the response has ended."""
        self._timeout.close()
        with contextlib.suppress(*BROKEN):
            await self._chunks.aclose()
            await self._response.aclose()

    async def _fill(self) -> None:
        """Wait for the next events and translate them."""
        try:
            with self._timeout.until(min(self._quiet_until(), self._total_by)):
                events, is_end = await self._read()
            self._first_event_by = None
            self._translate(events)
            if is_end and not self.has_completed:
                self._accept(self._translator.finish())
        except _FAILURES as error:
            self._failure = _told(error, self._secret)

    def _quiet_until(self) -> float:
        if self._first_event_by is not None:
            return self._first_event_by
        return asyncio.get_running_loop().time() + self._idle_secs

    async def _read(self) -> tuple[list[ServerEvent], bool]:
        """At least one event, or what is left at the end of the response."""
        async for chunk in self._chunks:
            if events := self._parser.feed(chunk):
                return events, False
        return self._parser.finish(), True

    def _translate(self, events: list[ServerEvent]) -> None:
        feed = self._translator.feed
        for name, data in events:
            if translated := feed(name, data):
                self._accept(translated)
                if self.has_completed:
                    return

    def _accept(self, events: tuple[ProviderEvent, ...]) -> None:
        self._pending.extend(events)
        self.has_completed = isinstance(events[-1], Completed)


def retry_delay(retry_after: str | None, *, now: float) -> float | None:
    """Seconds to wait before the one retry of a 429; None if it must not be retried.

    Args:
        retry_after: the header: seconds, or an HTTP date.
        now: epoch seconds.

    Source: https://www.rfc-editor.org/rfc/rfc9110#name-retry-after
    """
    if retry_after is None:
        return None
    try:
        delay = float(retry_after)
    except ValueError:
        try:
            delay = email.utils.parsedate_to_datetime(retry_after).timestamp() - now
        except ValueError:
            return None
    return max(delay, 0) if delay <= MAX_RETRY_DELAY_SECS else None


def _told(error: Exception, secret: str | None) -> ProviderError:
    """One of `_FAILURES` as a ProviderError."""
    if isinstance(error, ProviderError):
        failure = without_secret(error.failure, secret)
        return ProviderError.of(failure, usage=error.usage, response_id=error.response_id)
    if isinstance(error, openai.APIStatusError):
        failure = refused(error.response.content, error.status_code)
    elif isinstance(error, EventTooLargeError):
        failure = unreadable(str(error).encode())
    else:
        failure = unreachable(error)
    return ProviderError.of(without_secret(failure, secret))


async def _require_event_stream(response: httpx2.Response) -> None:
    """Pass a stream, and an answer that does not say what it is; read and raise anything else."""
    media_type = response.headers.get("content-type", "text/event-stream").partition(";")[0].strip().lower()
    if media_type == "text/event-stream":
        return
    try:
        raise ProviderError.of(refused(await beginning(response, MAX_ERROR_BODY_BYTES), response.status_code))
    finally:
        await response.aclose()

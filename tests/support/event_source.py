"""A browser's `EventSource`, as far as a server can tell the difference.

It follows the HTML standard to the letter where browsers are kinder: a blank line hands over the id that *this
connection* has named so far, which is none at its beginning, even if no event ends there.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import asyncio
import codecs
import json
import re
from dataclasses import dataclass, field
from enum import Enum

import httpx

from tests.support.sse import Event

_LINE_END = re.compile(r"\r\n|\n|\r(?!\Z)")
_NO_ID = "\0"


class ReadyState(Enum):
    CONNECTING = 0
    OPEN = 1
    CLOSED = 2


@dataclass(frozen=True)
class Message:
    """What a listener is given."""

    last_event_id: str
    event: str
    data: str

    def decoded(self) -> Event:
        return Event(self.last_event_id, self.event, json.loads(self.data))


@dataclass
class EventSource:
    """Reads `path` until the server makes it stop, or `close` does; `run` is what a browser does in the background.

    Credentials are the client's cookies: a page can give it no header.
    """

    client: httpx.AsyncClient
    path: str
    reconnection_secs: float = 0.05
    """Until the server names another; browsers begin with some seconds."""
    ready_state: ReadyState = ReadyState.CONNECTING
    messages: list[Message] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    """Of every answer, in order."""
    sent_ids: list[str] = field(default_factory=list)
    """The `Last-Event-ID` of every request, empty where there was none."""
    errors: int = 0
    last_event_id: str = ""

    async def run(self) -> None:
        while not self.is_closed:
            await self._connect()
            if not self.is_closed:
                self.ready_state = ReadyState.CONNECTING
                self.errors += 1
                await asyncio.sleep(self.reconnection_secs)

    @property
    def is_closed(self) -> bool:
        return self.ready_state is ReadyState.CLOSED

    def close(self) -> None:
        self.ready_state = ReadyState.CLOSED

    @property
    def events(self) -> list[Event]:
        return [message.decoded() for message in self.messages]

    async def _connect(self) -> None:
        headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
        if self.last_event_id:
            headers["Last-Event-ID"] = self.last_event_id
        self.sent_ids.append(self.last_event_id)
        try:
            async with self.client.stream("GET", self.path, headers=headers) as response:
                self.statuses.append(response.status_code)
                if not _is_event_stream(response):
                    self.errors += 1
                    return self.close()
                self.ready_state = ReadyState.OPEN
                await self._read(response)
        except httpx.TransportError:
            return None
        return None

    async def _read(self, response: httpx.Response) -> None:
        parser = EventStreamParser(self)
        decoder = codecs.getincrementaldecoder("utf-8-sig")("replace")
        async for chunk in response.aiter_bytes():
            parser.feed(decoder.decode(chunk))
            if self.is_closed:
                return


class EventStreamParser:
    """The buffers of one connection, fed with its text; what no blank line follows when it ends is dropped."""

    def __init__(self, source: EventSource) -> None:
        self._source = source
        self._rest = ""
        self._data = ""
        self._event_type = ""
        self._last_event_id = ""

    def feed(self, text: str) -> None:
        *lines, self._rest = _LINE_END.split(self._rest + text)
        for line in lines:
            if not line:
                self._dispatch()
            elif not line.startswith(":"):
                name, _, value = line.partition(":")
                self._process(name, value.removeprefix(" "))

    def _process(self, name: str, value: str) -> None:
        match name:
            case "event":
                self._event_type = value
            case "data":
                self._data += value + "\n"
            case "id" if _NO_ID not in value:
                self._last_event_id = value
            case "retry" if value.isascii() and value.isdigit():
                self._source.reconnection_secs = int(value) / 1000

    def _dispatch(self) -> None:
        self._source.last_event_id = self._last_event_id
        if self._data:
            message = Message(self._last_event_id, self._event_type or "message", self._data.removesuffix("\n"))
            self._source.messages.append(message)
        self._data = self._event_type = ""


def _is_event_stream(response: httpx.Response) -> bool:
    media_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    return response.status_code == httpx.codes.OK and media_type == "text/event-stream"

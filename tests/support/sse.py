"""A client of event streams, written from the format's definition and not from the product's code.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx


@dataclass(frozen=True)
class Event:
    id: str
    name: str
    data: dict[str, Any]

    @property
    def is_terminal(self) -> bool:
        return self.name in ("done", "error")


@dataclass
class SseParser:
    """Feeds on chunks of the body; knows comments, `retry` and nothing else of this product."""

    comments: int = 0
    retry_ms: int | None = None
    _rest: str = ""
    _fields: dict[str, str] = field(default_factory=dict)

    def feed(self, chunk: str) -> list[Event]:
        events = []
        *lines, self._rest = (self._rest + chunk).split("\n")
        for line in lines:
            if not line:
                if "data" in self._fields:
                    data = json.loads(self._fields["data"])
                    events.append(Event(self._fields.get("id", ""), self._fields.get("event", "message"), data))
                self._fields = {}
            elif line.startswith(":"):
                self.comments += 1
            else:
                name, _, value = line.partition(":")
                value = value.removeprefix(" ")
                if name == "retry":
                    self.retry_ms = int(value)
                assert name == "retry" or name not in self._fields, f"{name} twice in one frame"
                self._fields[name] = value
        return events


class Stream:
    """An open event stream."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.parser = SseParser()
        self.events: list[Event] = []
        """Everything received so far, pings included."""
        self._iterator = self._read()

    def __aiter__(self) -> AsyncIterator[Event]:
        return self._iterator

    async def _read(self) -> AsyncIterator[Event]:
        async for chunk in self.response.aiter_text():
            for event in self.parser.feed(chunk):
                self.events.append(event)
                yield event

    async def take(self, count: int) -> list[Event]:
        """The next `count` events."""
        taken: list[Event] = []
        while len(taken) < count:
            taken.append(await anext(self._iterator))
        return taken

    async def until(self, name: str) -> Event:
        """Read on to the next event called `name`."""
        async for event in self._iterator:
            if event.name == name:
                return event
        raise AssertionError(f"the stream ended without {name}")

    async def rest(self) -> list[Event]:
        """Everything up to the end of the stream."""
        return [event async for event in self._iterator]


@asynccontextmanager
async def open_stream(
    client: httpx.AsyncClient, method: str, path: str, *, expect: int = 200, **options: Any
) -> AsyncIterator[Stream]:
    """Open an event stream; leaving the block closes the connection, wherever the stream is."""
    async with client.stream(method, path, timeout=60, **options) as response:
        if response.status_code != expect:
            await response.aread()
            raise AssertionError(f"{response.status_code}: {response.text}")
        assert response.headers["content-type"] == "text/event-stream"
        yield Stream(response)


def shown_text(events: list[Event]) -> str:
    """What a client holds: the text since the last `stream_started` or `restart`."""
    parts: list[str] = []
    for event in events:
        if event.name in ("stream_started", "restart"):
            parts.clear()
        elif event.name == "delta" and event.data["type"] == "text":
            parts.append(event.data["content"])
    return "".join(parts)

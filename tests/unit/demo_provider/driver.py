"""Drives a running scripted provider: posts requests, reads streams, waits for records."""

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import aiohttp


@dataclass(frozen=True)
class Frame:
    """One event of a stream as a client sees it."""

    event: str | None
    data: str

    @property
    def json(self) -> Any:
        """The decoded data."""
        return json.loads(self.data)


@dataclass(frozen=True)
class Provider:
    """A running provider."""

    url: str
    session: aiohttp.ClientSession

    async def queue(self, *scripts: dict[str, Any]) -> None:
        """Queue scripts; they must be accepted."""
        async with self.session.post("/_control/scripts", json=[*scripts]) as response:
            assert response.status == 200, await response.text()

    def ask(self, text: str, *, path: str = "/v1/responses", **members: Any) -> Any:
        """Send a streaming request; an async context manager of the response."""
        asked = {"messages": [{"role": "user", "content": text}]} if "chat" in path else {"input": text}
        return self.session.post(path, json={"model": "m", "stream": True, **asked, **members})

    async def frames(self, text: str, *, path: str = "/v1/responses", **members: Any) -> list[Frame]:
        """Read a whole stream."""
        async with self.ask(text, path=path, **members) as response:
            assert response.status == 200, await response.text()
            return parse_frames(await response.text())

    async def record(self, is_ready: Callable[[dict[str, Any]], object] = bool) -> dict[str, Any]:
        """The newest request record, as soon as it is ready."""
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            async with self.session.get("/_control/requests") as response:
                records = await response.json()
            if records and is_ready(records[-1]):
                newest: dict[str, Any] = records[-1]
                return newest
            await asyncio.sleep(0.005)
        raise AssertionError("no such record")


def parse_frames(text: str) -> list[Frame]:
    """Split an event stream into its frames."""
    frames: list[Frame] = []
    for block in text.split("\n\n"):
        lines = [line.partition(": ") for line in block.split("\n") if line]
        if lines:
            events = [value for name, _, value in lines if name == "event"]
            data = "\n".join(value for name, _, value in lines if name == "data")
            frames.append(Frame(event=events[0] if events else None, data=data))
    return frames


def spoken(frames: list[Frame]) -> list[str]:
    """The text deltas of a Responses stream."""
    return [frame.json["delta"] for frame in frames if frame.event == "response.output_text.delta"]

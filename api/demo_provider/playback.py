"""Plays a script on a connection: opening, paced deltas, and the end it was told to make.

Pacing is by deadline: delta i is due at start + i/rate, so lateness never adds up; what is overdue goes out
in one write. How each terminal ends the connection: `completed`, `incomplete`, `failed` and `garbage` end the
HTTP body as usual, `eof` ends it without a terminal event and closes the connection, `reset` sends a TCP
reset (nothing after the deltas, not even the end of the body), `hang` stays silent until the caller leaves.
"""

import asyncio
import contextlib
import socket
import struct
from typing import Any, Protocol

import orjson
from aiohttp import web

from api.demo_provider.generation import Answer
from api.demo_provider.journal import RequestRecord
from api.demo_provider.script import Script, ScriptedEvent, Terminal
from api.demo_provider.wire import JSON_TYPE, dump_json, error_body, new_id, sse_frame

# Deltas joined into one write at most: keeps one fast stream from holding up the others.
_MAX_BATCH = 64
# SO_LINGER on with zero seconds: closing discards and sends RST instead of FIN.
_LINGER_ZERO = struct.pack("ii", 1, 0)
_RESET_FLUSH_SECONDS = 1.0
_DELTA_EVENT = "response.output_text.delta"


class AnswerWire(Protocol):
    """One API's encoding of one streamed answer."""

    def opening(self) -> bytes:
        """Everything before the first delta."""
        ...

    def delta(self, text: str) -> bytes:
        """One piece of text."""
        ...

    def closing(self, terminal: Terminal) -> bytes:
        """Everything after the last delta."""
        ...


class Playback:
    """One script played to one caller.

    A caller that leaves shows as cancellation or a ConnectionError out of `play`.
    """

    def __init__(self, request: web.Request, record: RequestRecord, script: Script) -> None:
        self._request = request
        self._record = record
        self._script = script
        self._response = web.StreamResponse(headers=_stream_headers(script))

    async def play(self, wire: AnswerWire, answer: Answer) -> web.StreamResponse:
        """Stream the script to its end."""
        if self._script.terminal == "eof":
            self._response.force_close()
        await self._response.prepare(self._request)
        if self._script.events is None:
            await self._send(wire.opening())
            await self._pause(self._script.delay_ms)
            await self._send_deltas(wire, answer)
            await self._send(wire.closing(self._script.terminal))
        else:
            await self._send_events(self._script.events)
            if self._script.terminal == "garbage":
                await self._send(wire.closing("garbage"))
        await self._end()
        return self._response

    async def play_http_answer(self, status: int) -> web.StreamResponse:
        """Answer without a stream."""
        await self._pause(self._script.delay_ms)
        response = http_answer(status, self._script.body)
        response.headers.update(_merge({}, self._script))
        await send_whole(self._request, response, self._record)
        return response

    async def _send_deltas(self, wire: AnswerWire, answer: Answer) -> None:
        deltas, rate = answer.deltas, self._script.rate
        loop = asyncio.get_running_loop()
        start, sent = loop.time(), 0
        while sent < len(deltas):
            # The timer may fire a hair early; at least one delta is always due here.
            due = max(sent + 1, int((loop.time() - start) * rate) + 1) if rate else len(deltas)
            batch = deltas[sent : min(due, sent + _MAX_BATCH)]
            await self._response.write(b"".join([wire.delta(text) for text in batch]))
            self._record.count_deltas(len(batch))
            sent += len(batch)
            if sent < len(deltas):
                await asyncio.sleep(start + sent / rate - loop.time() if rate else 0)

    async def _send_events(self, events: list[ScriptedEvent]) -> None:
        for event in events:
            await self._pause(event.delay_ms)
            data = event.data if isinstance(event.data, str | None) else dump_json(event.data)
            await self._response.write(sse_frame(event.event, data))
            if _is_text_delta(event):
                self._record.count_deltas(1)

    async def _end(self) -> None:
        if self._script.terminal == "hang":
            await asyncio.Event().wait()
        if self._script.terminal == "reset":
            await reset_connection(self._request)
        else:
            await self._response.write_eof()
        self._record.finish()

    async def _send(self, data: bytes) -> None:
        if data:
            await self._response.write(data)

    async def _pause(self, milliseconds: float) -> None:
        if milliseconds:
            await asyncio.sleep(milliseconds / 1000)


async def send_whole(request: web.Request, response: web.Response, record: RequestRecord) -> None:
    """Write a whole answer now, so that the record's end is the socket's, not the handler's."""
    await response.prepare(request)
    await response.write_eof()
    record.finish()


async def reset_connection(request: web.Request) -> None:
    """End the connection with a TCP reset, after what was written."""
    transport = request.transport
    if transport is None:
        raise ConnectionResetError("the caller left first")
    await _flush(transport)
    connection = transport.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
    transport.abort()


def http_answer(status: int, body: Any) -> web.Response:
    """An answer as it was scripted: text as it is, anything else as JSON, an error of ours if nothing was given."""
    if body is None:
        body = error_body("The scripted provider was told to answer so.", status=status, code="scripted")
    kind = "text/plain; charset=utf-8" if isinstance(body, str) else JSON_TYPE
    raw = body.encode("utf-8", "replace") if isinstance(body, str) else dump_json(body)
    return web.Response(body=raw, status=status, headers={"Content-Type": kind})


async def _flush(transport: asyncio.WriteTransport) -> None:
    """Let what was written reach the kernel, for an abort drops it; a caller who reads nothing is not awaited."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_RESET_FLUSH_SECONDS):
            await _until_flushed(transport)


async def _until_flushed(transport: asyncio.WriteTransport) -> None:
    await asyncio.sleep(0)
    while transport.get_write_buffer_size() and not transport.is_closing():  # noqa: ASYNC110 - no event
        await asyncio.sleep(0.001)


def _stream_headers(script: Script) -> dict[str, str]:
    headers = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}
    return _merge(headers, script)


def _merge(headers: dict[str, str], script: Script) -> dict[str, str]:
    """The script's headers win over ours, whatever their case."""
    given = {name.lower() for name in script.headers}
    ours = {"x-request-id": new_id("req_"), **headers}
    kept = {name: value for name, value in ours.items() if name.lower() not in given}
    return kept | {name: str(value) for name, value in script.headers.items()}


def _is_text_delta(event: ScriptedEvent) -> bool:
    """Whether an event sent as is carries answer text, in either API's form."""
    if event.event == _DELTA_EVENT:
        return True
    data = _decoded(event.data)
    if not isinstance(data, dict):
        return False
    if event.event is None and data.get("type") == _DELTA_EVENT:
        return True
    choices = data.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    delta = first.get("delta") if isinstance(first, dict) else None
    return isinstance(delta, dict) and bool(delta.get("content"))


def _decoded(data: Any) -> Any:
    if not isinstance(data, str):
        return data
    try:
        return orjson.loads(data)
    except ValueError:
        return None

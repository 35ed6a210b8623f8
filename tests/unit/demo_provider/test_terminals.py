"""How scripted answers end, and that a caller who leaves is noticed."""

import asyncio
import contextlib
import json
import time
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.unit.demo_provider.driver import Provider, parse_frames, spoken


async def open_stream(provider: Provider, script: dict[str, Any]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Ask over a socket of our own, so that its end can be seen and chosen."""
    await provider.queue(script)
    address = urlsplit(provider.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    body = json.dumps({"model": "m", "stream": True, "input": "hi"}).encode()
    head = f"POST /v1/responses HTTP/1.1\r\nHost: demo\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    return reader, writer


@pytest.mark.parametrize(("terminal", "reason"), [("completed", None), ("incomplete", "max_output_tokens")])
async def test_ends_with_a_response(provider: Provider, terminal: str, reason: str | None) -> None:
    """An incomplete answer still carries its text and usage."""
    await provider.queue({"text": "some text", "rate": 0, "terminal": terminal})
    frames = await provider.frames("hi")
    assert frames[-1].event == f"response.{terminal}"
    response = frames[-1].json["response"]
    assert response["status"] == terminal
    assert (response["incomplete_details"] or {}).get("reason") == reason
    assert response["output"][0]["status"] == terminal
    assert response["usage"]["output_tokens"] > 0


async def test_failed(provider: Provider) -> None:
    """The error is the scripted one; usage is reported only if scripted."""
    error = {"code": "rate_limit_exceeded", "message": "slow down"}
    failing: dict[str, Any] = {"text": "a b", "rate": 0, "terminal": "failed", "error": error}
    await provider.queue(failing, {**failing, "usage": {"input_tokens": 3}})
    frames = await provider.frames("hi")
    assert frames[-1].event == "response.failed"
    assert spoken(frames) == ["a ", "b"]
    response = frames[-1].json["response"]
    assert (response["status"], response["error"], response["usage"]) == ("failed", error, None)
    again = await provider.frames("hi")
    assert again[-1].json["response"]["usage"]["input_tokens"] == 3


async def test_eof(provider: Provider) -> None:
    """The body ends properly after the deltas, no terminal event came, the connection closes."""
    reader, writer = await open_stream(provider, {"text": "a b", "rate": 0, "terminal": "eof"})
    received = await reader.read()
    assert received.endswith(b"0\r\n\r\n")
    assert b'"delta":"b"' in received
    assert b"response.completed" not in received
    assert b"output_text.done" not in received
    writer.close()
    assert (await provider.record())["finished_at"] is not None


async def test_reset(provider: Provider) -> None:
    """The deltas arrive, then the connection is reset, not closed."""
    reader, writer = await open_stream(provider, {"tokens": 5, "rate": 0, "terminal": "reset"})
    await reader.readuntil(b'"delta":"w4 "')
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()
    with contextlib.suppress(ConnectionResetError):
        await writer.wait_closed()
    record = await provider.record(lambda record: record["finished_at"])
    assert record["closed_by_caller_at"] is None
    assert record["deltas_sent"] == 5


async def test_garbage(provider: Provider) -> None:
    """A listed event whose data does not decode, then a proper end."""
    await provider.queue({"text": "a", "rate": 0, "terminal": "garbage"})
    frames = await provider.frames("hi")
    assert frames[-1].event == "response.completed"
    with pytest.raises(ValueError, match="Expecting"):
        _ = frames[-1].json


@pytest.mark.parametrize(
    "script",
    [
        {"text": "a", "rate": 0, "terminal": "hang"},
        {"text": "a b", "rate": 0.01},
        {"text": "a", "delay_ms": 60_000},
        {"events": [{"event": "e", "data": {}}, {"event": "e", "delay_ms": 60_000}]},
    ],
    ids=["hang", "between deltas", "before the first delta", "between events"],
)
async def test_a_caller_who_leaves_a_silent_stream_is_noticed(provider: Provider, script: dict[str, Any]) -> None:
    """At once, not at the next write."""
    reader, writer = await open_stream(provider, script)
    await reader.readuntil(b"\r\n\r\n")
    await provider.record(lambda record: script.get("delay_ms") or record["deltas_sent"] or "events" in script)
    left_at = time.time()
    writer.close()
    record = await provider.record(lambda record: record["closed_by_caller_at"])
    assert record["closed_by_caller_at"] - left_at < 0.2
    assert record["finished_at"] is None


async def test_a_caller_who_resets_a_busy_stream_is_noticed(
    provider: Provider, caplog: pytest.LogCaptureFixture
) -> None:
    """Also while deltas are being written; it is no error."""
    reader, writer = await open_stream(provider, {"tokens": 100_000, "rate": 0})
    await reader.readuntil(b'"delta":"w0 "')
    left_at = time.time()
    writer.transport.abort()
    record = await provider.record(lambda record: record["closed_by_caller_at"])
    assert record["closed_by_caller_at"] - left_at < 0.2
    assert record["deltas_sent"] < 100_000
    assert caplog.records == []


async def test_http_answers(provider: Provider) -> None:
    """Status, headers and body go out as scripted; without a body there is an error of OpenAI's shape."""
    await provider.queue(
        {"http_status": 429, "headers": {"Retry-After": 3}, "body": {"error": {"message": "slow", "code": "x"}}},
        {"http_status": 502, "headers": {"content-type": "text/html"}, "body": "<h1>bad</h1>"},
        {"http_status": 500},
        {"http_status": 204},
    )
    async with provider.ask("hi") as response:
        assert (response.status, response.headers["Retry-After"]) == (429, "3")
        assert await response.json() == {"error": {"message": "slow", "code": "x"}}
    async with provider.ask("hi") as response:
        assert (response.status, response.content_type) == (502, "text/html")
        assert await response.text() == "<h1>bad</h1>"
    async with provider.ask("hi") as response:
        assert (await response.json())["error"]["type"] == "server_error"
    async with provider.ask("hi") as response:
        assert (response.status, await response.read()) == (204, b"")
    record = await provider.record(lambda record: record["finished_at"])
    assert record["first_delta_at"] is None


async def test_events_are_sent_as_they_are(provider: Provider) -> None:
    """Objects as JSON, strings raw, no event added; text deltas among them are counted."""
    delta = {"delta": "hey"}
    events = [
        {"event": "response.output_text.delta", "data": delta},
        {"data": {"type": "response.output_text.delta", "delta": "x"}},
        {"event": "response.completed", "data": "{not json", "delay_ms": 5},
        {"data": "[DONE]"},
    ]
    await provider.queue({"events": events})
    async with provider.ask("hi") as response:
        text = await response.text()
    frames = parse_frames(text)
    assert [frame.event for frame in frames] == ["response.output_text.delta", None, "response.completed", None]
    assert frames[0].json == delta
    assert [frame.data for frame in frames[2:]] == ["{not json", "[DONE]"]
    assert (await provider.record())["deltas_sent"] == 2


async def test_events_then_a_reset(provider: Provider) -> None:
    """The terminals of the connection apply to them, too."""
    reader, writer = await open_stream(provider, {"events": [{"event": "e", "data": "d"}], "terminal": "reset"})
    await reader.readuntil(b"data: d\n\n")
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()
    with contextlib.suppress(ConnectionResetError):
        await writer.wait_closed()

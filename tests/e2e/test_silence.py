"""What a client receives while a provider is silent."""

from __future__ import annotations

import asyncio
import time

import httpx

from tests.support.deployment import Deployment
from tests.support.sse import Stream, open_stream
from tests.support.stream_rules import assert_well_formed
from tests.support.tokens import Caller
from tests.support.turns import create_chat, message, scripted, send_path

PING_SECS = 5
JITTER_SECS = 2
SILENCE_MS = 8_200
"""Longer than the longest wait for a ping."""
LATENESS_SECS = 1.0


async def test_21_silence_before_content_is_filled_with_pings_and_later_with_comments(product: Deployment) -> None:
    with product.extra_api(STREAMING__SSE_PING_INTERVAL_SECONDS=str(PING_SECS)) as api:
        async with product.client(Caller(), api=api) as client, asyncio.TaskGroup() as tasks:
            tasks.create_task(_check_silence_before_content(client))
            tasks.create_task(_check_silence_within_content(client))


async def _check_silence_before_content(client: httpx.AsyncClient) -> None:
    chat_id = await create_chat(client)
    body = message(scripted(tokens=3, rate=0, delay_ms=SILENCE_MS))
    async with open_stream(client, "POST", send_path(chat_id), json=body) as stream:
        silences = await _silences_before_pings(stream)
    assert silences
    assert all(PING_SECS - JITTER_SECS <= secs <= PING_SECS + JITTER_SECS + LATENESS_SECS for secs in silences)
    assert_well_formed(stream.events)
    assert all(event.id == "0-1" and event.data == {} for event in stream.events if event.name == "ping")
    assert stream.parser.comments == 0


async def _silences_before_pings(stream: Stream) -> list[float]:
    silences = []
    last = time.monotonic()
    async for event in stream:
        now = time.monotonic()
        if event.name == "ping":
            silences.append(now - last)
        last = now
    return silences


async def _check_silence_within_content(client: httpx.AsyncClient) -> None:
    delta = {"event": "response.output_text.delta", "data": {"delta": "Hm "}}
    end = {"event": "response.completed", "data": {"response": {}}, "delay_ms": SILENCE_MS}
    chat_id = await create_chat(client)
    body = message(scripted(events=[delta, end]))
    async with open_stream(client, "POST", send_path(chat_id), json=body) as stream:
        await stream.rest()
    assert_well_formed(stream.events)
    assert [event.name for event in stream.events] == ["stream_started", "delta", "done"]
    assert stream.parser.comments >= 1

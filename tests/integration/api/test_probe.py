"""The stream without a turn, by which a way through proxies is measured."""

from __future__ import annotations

import httpx
import pytest

from tests.support.api import RunningApi
from tests.support.sse import SseParser


@pytest.fixture
def path() -> str:
    return "/healthz/stream"


async def test_it_ticks_and_ends_and_needs_no_token(api: RunningApi, path: str) -> None:
    async with api.client(base_path="") as client:
        answer = await client.get(path, params={"events": 3, "interval_ms": 20})
    assert answer.status_code == httpx.codes.OK
    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.headers["x-accel-buffering"] == "no"
    events = SseParser().feed(answer.text)
    assert [(event.id, event.name) for event in events] == [("1", "tick"), ("2", "tick"), ("3", "tick"), ("4", "end")]
    elapsed = [event.data["elapsed_ms"] for event in events]
    assert elapsed[0] < 20
    assert elapsed[2] >= 40


@pytest.mark.parametrize(
    "parameters", [{"events": 0}, {"events": 21}, {"interval_ms": 501}, {"silence_secs": 71}, {"silence_secs": -1}]
)
async def test_it_is_bounded(api: RunningApi, path: str, parameters: dict[str, int]) -> None:
    async with api.client(base_path="") as client:
        answer = await client.get(path, params=parameters)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")


async def test_only_so_many_are_open_at_a_time(api: RunningApi, path: str) -> None:
    api.context.probes.open = api.context.probes.at_most
    async with api.client(base_path="") as client:
        answer = await client.get(path)
        assert (answer.status_code, answer.json()["code"]) == (503, "service_unavailable")
        assert answer.headers["retry-after"]
        api.context.probes.open = 0
        assert (await client.get(path, params={"events": 1})).status_code == httpx.codes.OK
    assert api.context.probes.open == 0


async def test_a_drain_ends_it(api: RunningApi, path: str) -> None:
    """A replica that goes away must not wait for a silence that means nothing."""
    api.context.draining.set()
    async with api.client(base_path="") as client:
        answer = await client.get(path, params={"events": 20, "interval_ms": 500, "silence_secs": 70})
    assert [event.name for event in SseParser().feed(answer.text)] == ["tick"] * 20 + ["end"]

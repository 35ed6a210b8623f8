"""How a provider's stream is broken off, and what is measured of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest

from shared.events import frames
from shared.ids import new_uuid4
from shared.metrics import Metrics
from shared.settings import QuotaSettings, Settings
from shared.turns.lifecycle import TokenUsage, TurnState
from shared.turns.tables import Turn
from tests.support.waiting import wait_until
from tests.unit.providers.factories import a_request
from worker.providers.base import (
    Completion,
    Counted,
    GenerationRequest,
    ProviderError,
    ProviderEvent,
    ProviderStream,
    TextDelta,
)
from worker.turns.generation import Generation
from worker.turns.held import HeldTurn, Stop, StopKind
from worker.turns.publisher import Publisher
from worker.turns.tool_calls import ToolCalls, ToolCounter

HOUR = timedelta(hours=1)


class EndlessProvider:
    """Sends what is put into its queue, or fails with it, and counts the streams that were closed."""

    def __init__(self) -> None:
        self.events: asyncio.Queue[ProviderEvent | ProviderError] = asyncio.Queue()
        self.closed = 0

    @asynccontextmanager
    async def open(
        self, _request: GenerationRequest, *, on_requested: Callable[[], object]
    ) -> AsyncIterator[ProviderStream]:
        on_requested()
        try:
            yield self._stream()
        finally:
            self.closed += 1

    async def _stream(self) -> AsyncIterator[ProviderEvent]:
        while True:
            event = await self.events.get()
            if isinstance(event, ProviderError):
                raise event
            yield event

    async def complete(self, _request: GenerationRequest, *, on_requested: Callable[[], object]) -> Completion:
        on_requested()
        raise AssertionError("turns are streamed")

    async def aclose(self) -> None:
        """Nothing is open."""


@pytest.fixture
def metrics() -> Metrics:
    return Metrics("test")


@pytest.fixture
def held() -> HeldTurn:
    ids = {"id": new_uuid4(), "chat_id": new_uuid4(), "request_id": new_uuid4()}
    return HeldTurn(cast("Turn", SimpleNamespace(**ids, attempt=1, lease_owner="w", on_worker_loss="restart")))


@pytest.fixture
def provider() -> EndlessProvider:
    return EndlessProvider()


@pytest.fixture
def generation(held: HeldTurn, provider: EndlessProvider, metrics: Metrics) -> Generation:
    sessions = cast("Any", None)
    publisher = Publisher(
        held,
        log=cast("Any", None),
        sessions=sessions,
        settings=Settings(),
        metrics=metrics,
        started=frames.stream_started(request_id=new_uuid4(), message_id=new_uuid4(), is_new_turn=True),
    )
    counter = ToolCounter.with_settings(QuotaSettings())
    tools = ToolCalls(held, counter=counter, sessions=sessions, metrics=metrics, provider="main", model="std-a")
    return Generation(
        held, publisher, provider=provider, request=a_request(), tools=tools, sessions=sessions, metrics=metrics
    )


def cancels_requested(metrics: Metrics, trigger: str) -> float | None:
    return metrics.registry.get_sample_value("test_cancel_requested_total", {"trigger": trigger})


async def test_what_comes_after_the_stop_was_heard_is_counted(
    generation: Generation, held: HeldTurn, provider: EndlessProvider
) -> None:
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(generation.run(time_left=HOUR))
        provider.events.put_nowait(TextDelta("before "))
        await wait_until(lambda: held.deltas)
        held.stop(Stop(StopKind.CANCELLED, "user_stop"))
        provider.events.put_nowait(TextDelta("after"))  # it is there before the stop can take effect
    ending = running.result()
    assert ending is not None
    assert (ending.state, ending.trigger, ending.text) == (TurnState.CANCELLED, "user_stop", "")
    assert (held.deltas, provider.closed) == (["before ", "after"], 1)
    assert held.abort is not None
    assert held.abort.deltas == 1
    assert held.abort.elapsed_ms >= 0


async def test_what_was_counted_before_a_stop_is_billed(
    generation: Generation, held: HeldTurn, provider: EndlessProvider
) -> None:
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(generation.run(time_left=HOUR))
        for event in (Counted(TokenUsage(9, 1)), Counted(TokenUsage(9, 2)), TextDelta("so far")):
            provider.events.put_nowait(event)
        await wait_until(lambda: held.deltas)
        held.stop(Stop(StopKind.CANCELLED, "user_stop"))
    ending = running.result()
    assert ending is not None
    assert (ending.state, ending.usage) == (TurnState.CANCELLED, TokenUsage(9, 2))


@pytest.mark.parametrize("told", [None, TokenUsage(9, 3)])
async def test_what_was_counted_before_a_failure_is_billed(
    generation: Generation, provider: EndlessProvider, told: TokenUsage | None
) -> None:
    """Unless the failure itself says more."""
    provider.events.put_nowait(Counted(TokenUsage(9, 2)))
    provider.events.put_nowait(ProviderError("provider_timeout", "Provider request timed out", usage=told))
    ending = await generation.run(time_left=HOUR)
    assert ending is not None
    assert (ending.state, ending.usage) == (TurnState.FAILED, told or TokenUsage(9, 2))


async def test_a_turn_that_takes_too_long_is_stopped(
    generation: Generation, held: HeldTurn, provider: EndlessProvider, metrics: Metrics
) -> None:
    ending = await generation.run(time_left=timedelta(milliseconds=1))
    assert ending is not None
    assert (ending.trigger, ending.provider_started, provider.closed) == ("timeout", True, 1)
    assert held.abort is not None
    assert held.abort.deltas == 0
    assert cancels_requested(metrics, "timeout") == 1


async def test_a_turn_without_time_left_asks_nobody(
    generation: Generation, provider: EndlessProvider, metrics: Metrics
) -> None:
    ending = await generation.run(time_left=timedelta())
    assert ending is not None
    assert (ending.trigger, ending.provider_started, provider.closed) == ("timeout", False, 0)
    assert cancels_requested(metrics, "timeout") == 1


async def test_a_stop_comes_before_the_end_of_the_time(
    generation: Generation, held: HeldTurn, metrics: Metrics
) -> None:
    held.stop(Stop(StopKind.CANCELLED, "user_stop"))
    ending = await generation.run(time_left=timedelta())
    assert ending is not None
    assert ending.trigger == "user_stop"
    assert cancels_requested(metrics, "timeout") is None

"""The circuit breaker: its laws as a state machine, and its effect on calls over HTTP."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from shared.metrics import Metrics
from shared.model_catalog.catalog import ProviderConfig
from shared.providers import breaker as breaker_module
from shared.providers.breaker import (
    FAILURES_TO_OPEN,
    FIRST_PAUSE_SECS,
    LONGEST_PAUSE_SECS,
    CircuitBreaker,
    CircuitCall,
    CircuitOpenError,
)
from shared.providers.client import ProviderClients
from shared.providers.storage import ProviderStorages, StorageError
from tests.unit.providers.factories import TENANT, a_config, a_request, completed, frame
from tests.unit.providers.servers import END_OF_CHUNKS, Exchange, Script, serving
from worker.providers.base import ProviderError
from worker.providers.registry import ProviderRegistry

OUTAGES = ("500", "reset", "eof", "silence")


class Circuit(RuleBasedStateMachine):
    """Any calls in any order, some at the same time, against the rules in words."""

    def __init__(self) -> None:
        super().__init__()
        self.time = 0.0
        self.openings = 0
        self.breaker = CircuitBreaker(on_open=self._opened, now=lambda: self.time)
        self.running: list[CircuitCall] = []
        self.in_a_row = 0
        self.open_until: float | None = None
        self.pause = FIRST_PAUSE_SECS
        self.probe: CircuitCall | None = None
        self.expected_openings = 0

    def _opened(self) -> None:
        self.openings += 1

    @initialize()
    def begin_closed(self) -> None:
        assert self.breaker.is_closed

    @rule()
    def begin(self) -> None:
        may = self.open_until is None or (self.probe is None and self.time >= self.open_until)
        if not may:
            with pytest.raises(CircuitOpenError):
                self.breaker.call()
            return
        call = self.breaker.call()
        self.running.append(call)
        if self.open_until is not None:
            self.probe = call

    @rule(seconds=st.sampled_from([0.5, 10.0, 20.0, 60.0]))
    def wait(self, seconds: float) -> None:
        self.time += seconds

    @precondition(lambda self: self.running)
    @rule(data=st.data(), verdict=st.sampled_from(["success", "outage", "refusal", "given up"]))
    def end(self, data: st.DataObject, verdict: str) -> None:
        call = data.draw(st.sampled_from(self.running))
        self.running.remove(call)
        with call:
            if verdict == "success":
                call.has_succeeded()
            elif verdict != "given up":
                call.has_failed(is_outage=verdict == "outage")
        self._expect(call, verdict)

    def _expect(self, call: CircuitCall, verdict: str) -> None:
        if call is self.probe:
            self.probe = None
            if verdict in ("success", "refusal"):
                self.open_until, self.in_a_row, self.pause = None, 0, FIRST_PAUSE_SECS
            elif verdict == "outage":
                self.pause = min(2 * self.pause, LONGEST_PAUSE_SECS)
                self._expect_open()
        elif self.open_until is None:
            self.in_a_row = {"outage": self.in_a_row + 1, "success": 0}.get(verdict, self.in_a_row)
            if self.in_a_row == FAILURES_TO_OPEN:
                self._expect_open()

    def _expect_open(self) -> None:
        self.open_until = self.time + self.pause
        self.expected_openings += 1

    @invariant()
    def is_as_expected(self) -> None:
        assert self.breaker.is_closed == (self.open_until is None)
        assert self.openings == self.expected_openings


TestCircuit = Circuit.TestCase


def test_a_circuit_that_is_switched_off_never_opens() -> None:
    breaker = CircuitBreaker(is_enabled=False)
    for _ in range(10 * FAILURES_TO_OPEN):
        with breaker.call() as call:
            call.has_failed(is_outage=True)
    assert breaker.is_closed


def answering(kind: str) -> Script:
    async def answer(exchange: Exchange) -> None:
        match kind:
            case "500" | "400" | "429":
                await exchange.respond(int(kind), b"{}")
            case "reset":
                exchange.reset()
            case "eof":
                await exchange.stream(frame("response.output_text.delta", delta="x"))
                await exchange.send(END_OF_CHUNKS)
            case "failed":
                error = {"code": "invalid_prompt", "message": "no"}
                await exchange.stream(frame("response.failed", response={"error": error}))
                await exchange.send(END_OF_CHUNKS)
            case "silence":
                await exchange.closed_by_caller()
            case "ok":
                await exchange.stream(completed())
                await exchange.send(END_OF_CHUNKS)

    return answer


class Provider:
    """A provider, asked for generations and for files."""

    def __init__(self, config: ProviderConfig) -> None:
        self.metrics = Metrics("test")
        self.clients = ProviderClients({"main": config}, on_circuit_open=self._count)
        self.registry = ProviderRegistry(self.clients)
        self.storage = ProviderStorages(self.clients, self.metrics).of_provider("main", TENANT)
        self.asked = 0

    def _count(self, provider_id: str) -> None:
        self.metrics.provider_circuit_open.labels(provider=provider_id).inc()

    def _ask(self) -> None:
        self.asked += 1

    async def generate(self) -> str:
        """The code of its failure, or `ok`."""
        provider = self.registry.get("main", TENANT)
        try:
            async with provider.open(a_request(), on_requested=self._ask) as stream:
                async for _ in stream:
                    pass
        except ProviderError as error:
            return error.code
        return "ok"

    async def aclose(self) -> None:
        await self.registry.aclose()
        await self.clients.aclose()

    @property
    def openings(self) -> float:
        return self.metrics.registry.get_sample_value("test_provider_circuit_open_total", {"provider": "main"}) or 0


@pytest.mark.parametrize("outage", OUTAGES)
async def test_a_provider_that_keeps_failing_is_left_alone(outage: str) -> None:
    """Turns fail at once with provider_error, without a call that could cost money."""
    async with serving(answering(outage)) as server:
        provider = Provider(a_config(server.port, circuit_breaker=True, timeouts={"first_event": 0.1}))
        for _ in range(FAILURES_TO_OPEN + 3):
            last = await provider.generate()
        assert last == "provider_error"
        assert provider.asked == len(server.exchanges) == FAILURES_TO_OPEN
        assert provider.openings == 1
        await provider.aclose()


@pytest.mark.parametrize("refusal", ["400", "429", "failed"])
async def test_a_provider_that_refuses_is_there(refusal: str) -> None:
    async with serving(answering(refusal)) as server:
        provider = Provider(a_config(server.port, circuit_breaker=True))
        for _ in range(2 * FAILURES_TO_OPEN):
            await provider.generate()
        assert len(server.exchanges) == 2 * FAILURES_TO_OPEN
        assert provider.openings == 0
        await provider.aclose()


async def test_without_the_switch_every_call_is_made() -> None:
    async with serving(answering("500")) as server:
        provider = Provider(a_config(server.port))
        for _ in range(2 * FAILURES_TO_OPEN):
            await provider.generate()
        assert len(server.exchanges) == 2 * FAILURES_TO_OPEN
        await provider.aclose()


async def test_generations_and_storage_share_the_circuit() -> None:
    async with serving(answering("500")) as server:
        provider = Provider(a_config(server.port, circuit_breaker=True))
        for _ in range(FAILURES_TO_OPEN):
            with pytest.raises(StorageError):
                await provider.storage.create_vector_store()
        with pytest.raises(StorageError) as caught:
            await provider.storage.create_vector_store()
        assert await provider.generate() == "provider_error"
        assert (caught.value.code, caught.value.message) == ("provider_error", "Provider is currently unavailable")
        assert len(server.exchanges) == FAILURES_TO_OPEN
        await provider.aclose()


async def test_a_probe_that_is_answered_closes_the_circuit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breaker_module, "FIRST_PAUSE_SECS", 0.0)
    kinds = iter(["500"] * FAILURES_TO_OPEN + ["ok"] * 3)

    async def answer(exchange: Exchange) -> None:
        await answering(next(kinds))(exchange)

    async with serving(answer) as server:
        provider = Provider(a_config(server.port, circuit_breaker=True))
        told = [await provider.generate() for _ in range(FAILURES_TO_OPEN + 3)]
        assert told == ["provider_error"] * FAILURES_TO_OPEN + ["ok"] * 3
        assert provider.openings == 1
        await provider.aclose()

"""Whole calls against a real socket: what is sent, how every failure is told, and when the connection drops."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from email.utils import formatdate
from typing import Any

import pytest

from shared.metrics import Metrics
from shared.model_catalog.catalog import ProviderConfig
from shared.providers.client import ProviderClients
from shared.turns.lifecycle import TokenUsage
from tests.unit.providers.factories import TENANT, a_config, a_model, a_request, completed, delta, frame
from tests.unit.providers.servers import END_OF_CHUNKS, STREAM_HEAD, Exchange, Script, Server, drop, serving
from worker.providers import http_stream
from worker.providers.base import Completed, Provider, ProviderError, ProviderEvent, ProviderStream, TextDelta
from worker.providers.http_stream import retry_delay
from worker.providers.registry import ProviderRegistry

DROP_SECS = 0.25
"""How soon the provider must notice that we left: a millisecond by itself, more on a machine full of tests."""
ANSWER = [TextDelta("Hel"), TextDelta("lo"), Completed("resp_1", TokenUsage(5, 2), None, ())]


@asynccontextmanager
async def a_provider(config: ProviderConfig, metrics: Metrics | None = None) -> AsyncIterator[Provider]:
    clients = ProviderClients({"main": config})
    registry = ProviderRegistry(clients, metrics or Metrics("test"))
    try:
        yield registry.get("main", TENANT)
    finally:
        await registry.aclose()
        await clients.aclose()


@asynccontextmanager
async def opened(script: Script, **config: Any) -> AsyncIterator[tuple[ProviderStream, Server]]:
    async with (
        serving(script) as server,
        a_provider(a_config(server.port, **config)) as provider,
        provider.open(a_request(), on_requested=lambda: None) as stream,
    ):
        yield stream, server


async def ask(provider: Provider, **request: Any) -> list[ProviderEvent]:
    async with provider.open(a_request(**request), on_requested=lambda: None) as stream:
        return [event async for event in stream]


async def ask_server(script: Script, **config: Any) -> tuple[list[ProviderEvent], Server]:
    async with serving(script) as server, a_provider(a_config(server.port, **config)) as provider:
        return await ask(provider), server


async def failure_of(script: Script, **config: Any) -> tuple[ProviderError, Server]:
    async with serving(script) as server, a_provider(a_config(server.port, **config)) as provider:
        with pytest.raises(ProviderError) as caught:
            await ask(provider)
        return caught.value, server


def responding(status: int, body: bytes = b"", **headers: str) -> Script:
    async def script(exchange: Exchange) -> None:
        await exchange.respond(status, body, **headers)

    return script


def streaming(*frames: bytes, end: bytes = END_OF_CHUNKS) -> Script:
    async def script(exchange: Exchange) -> None:
        await exchange.stream(*frames)
        await exchange.send(end)

    return script


def silent_after(*frames: bytes) -> Script:
    async def script(exchange: Exchange) -> None:
        if frames:
            await exchange.stream(*frames)
        await exchange.closed_by_caller()

    return script


answering = streaming(delta("Hel"), b": comment\n\n", delta("lo"), frame("response.future"), completed())


class TestRequest:
    async def test_an_answer_arrives_in_order(self) -> None:
        events, server = await ask_server(answering)
        assert events == ANSWER
        assert len(server.exchanges) == 1

    async def test_what_is_sent(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """No credential is configured, so none leaves, whatever the environment holds."""
        for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
            monkeypatch.setenv(name, "from-the-environment")
        _, server = await ask_server(answering)
        exchange = server.exchanges[0]
        assert exchange.target == "/v1/responses"
        assert exchange.json["input"][0]["content"][0]["text"] == "What is shown?"
        assert exchange.headers["accept"] == "text/event-stream"
        assert exchange.headers["content-type"] == "application/json"
        assert "authorization" not in exchange.headers
        assert "from-the-environment" not in str(exchange.headers)

    @pytest.mark.parametrize(
        ("header", "prefix", "sent"),
        [("Authorization", "Bearer ", "Bearer key-12345"), ("authorization", "", "key-12345")],
    )
    async def test_authorization(self, header: str, prefix: str, sent: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("KEY", "key-12345")
        monkeypatch.setenv("OPENAI_API_KEY", "other")
        _, server = await ask_server(answering, auth_header=header, auth_prefix=prefix, auth_secret="env:KEY")
        assert server.exchanges[0].headers["authorization"] == sent

    async def test_azure_has_its_own_header_and_query(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("KEY", "key-12345")
        _, server = await ask_server(
            answering,
            storage_kind="azure",
            api_version="2025-03-01",
            api_path="/openai/deployments/{model}/responses?api-version=2025-03-01",
            auth_header="api-key",
            auth_secret="env:KEY",
        )
        exchange = server.exchanges[0]
        assert exchange.target == "/openai/deployments/gpt-x/responses?api-version=2025-03-01"
        assert exchange.headers["api-key"] == "key-12345"
        assert "authorization" not in exchange.headers

    async def test_chat_completions(self) -> None:
        chunk = {"id": "chatcmpl-1", "choices": [{"delta": {"content": "Hi"}, "finish_reason": "length"}]}
        script = streaming(b"data: %s\n\ndata: [DONE]\n\n" % json.dumps(chunk).encode())
        events, server = await ask_server(script, kind="openai_chat_completions", api_path="/v1/chat/completions")
        assert events == [TextDelta("Hi"), Completed("chatcmpl-1", None, "max_tokens", ())]
        assert server.exchanges[0].target == "/v1/chat/completions"

    async def test_on_requested_comes_once_before_the_request(self) -> None:
        order: list[str] = []

        async def script(exchange: Exchange) -> None:
            order.append("received")
            await (responding(429, Retry_After="0") if len(order) == 2 else answering)(exchange)

        async with (
            serving(script) as server,
            a_provider(a_config(server.port)) as provider,
            provider.open(a_request(), on_requested=lambda: order.append("announced")) as stream,
        ):
            assert [event async for event in stream] == ANSWER
        assert order == ["announced", "received", "received"]

    async def test_connections_are_used_again(self) -> None:
        async with serving(answering) as server, a_provider(a_config(server.port)) as provider:
            for _ in range(3):
                assert await ask(provider) == ANSWER
                await drained()
        assert server.connections == 1

    async def test_text_is_cleaned_on_the_way(self) -> None:
        frames = [
            b'event: response.output_text.delta\ndata: {"delta":"a\\u0000\\ud800b"}\n\n',
            'event: response.output_text.delta\ndata: {"delta":"é😀\\ud83d\\ude00"}\n\n'.encode(),
        ]
        events, _ = await ask_server(streaming(*frames, completed()))
        assert events[:2] == [TextDelta("a\ufffdb"), TextDelta("é😀😀")]

    async def test_content_and_secrets_are_not_logged(
        self, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("KEY", "key-12345")
        caplog.set_level(logging.INFO)
        auth = {"auth_header": "Authorization", "auth_prefix": "Bearer ", "auth_secret": "env:KEY"}
        await ask_server(answering, **auth)
        await failure_of(responding(401, b'{"error":{"message":"bad key key-12345"}}'), **auth)
        assert not [word for word in ("key-12345", "Hel", "What is shown") if word in caplog.text]


async def drained() -> None:
    """Wait for responses that are read to their end in the background."""
    while tasks := [task for task in asyncio.all_tasks() if task.get_name() == "provider-drain"]:
        await asyncio.wait(tasks)


RATE_LIMITED = ("rate_limited", "Rate limited by provider")
TIMED_OUT = ("provider_timeout", "Provider request timed out")
UNAVAILABLE = ("provider_error", "Provider is currently unavailable")


class TestRefusals:
    @pytest.mark.parametrize(
        ("status", "body", "told"),
        [
            (401, b'{"error":{"message":"Bad sk-1234 of org-1a"}}', "Bad [credential] of [provider_id]"),
            (400, b'{"code":"bad","message":"Flat"}', "Flat"),
            (404, b'{"error":"model not found"}', "model not found"),
            (422, b'{"detail":"resp_1a"}', '{"detail":"[provider_id]"}'),
            (500, b'{"error":{"message":"Boom"}}', "Boom"),
            (502, b"<h1>Bad gateway</h1>" + b"x" * 300, "<h1>Bad gateway</h1>" + "x" * 180),
            (503, b"", "Provider is currently unavailable"),
            (307, b"moved", "moved"),
            (200, b'{"error":{"message":"In JSON"}}', "In JSON"),
            (200, b"<html>", "<html>"),
            (200, b"", "Provider is currently unavailable"),
        ],
    )
    async def test_other_statuses_show_the_message(self, status: int, body: bytes, told: str) -> None:
        script = responding(status, body, Content_Type="application/json", Location="/v1/elsewhere")
        error, server = await failure_of(script)
        assert (error.code, error.message, error.http_status) == ("provider_error", told, status)
        assert len(server.exchanges) == 1

    @pytest.mark.parametrize(
        ("status", "body", "told"),
        [
            (408, b"", TIMED_OUT),
            (504, b'{"error":{"message":"m"}}', TIMED_OUT),
            (429, b"slow down", RATE_LIMITED),
            (400, b'{"error":{"code":"rate_limit_exceeded","message":"m"}}', RATE_LIMITED),
            (200, b'{"code":"rate_limited"}', RATE_LIMITED),
        ],
    )
    async def test_fixed_messages(self, status: int, body: bytes, told: tuple[str, str]) -> None:
        error, server = await failure_of(responding(status, body, Content_Type="application/json"))
        assert (error.code, error.message) == told
        assert error.detail == body.decode()
        assert len(server.exchanges) == 1

    async def test_the_key_that_was_sent_is_never_repeated(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("KEY", "hunter2hunter2")
        body = b'{"error":{"message":"unknown key hunter2hunter2"}}'
        error, _ = await failure_of(responding(403, body), auth_header="api-key", auth_secret="env:KEY")
        assert error.message == "unknown key [credential]"
        assert "hunter2hunter2" not in f"{error!r} {error.detail}"

    async def test_a_huge_body_is_not_kept(self) -> None:
        script = responding(200, b"x" * 1_000_000, Content_Type="text/plain")
        error, _ = await failure_of(script)
        assert error.message == "x" * 200
        assert len(error.detail) <= 8_000


class TestRetry:
    @staticmethod
    def limited(times: int, retry_after: str) -> tuple[Script, list[int]]:
        """429 for the first `times` requests, then an answer."""
        seen: list[int] = []

        async def script(exchange: Exchange) -> None:
            seen.append(1)
            limit = responding(429, b"{}", Retry_After=retry_after)
            await (limit if len(seen) <= times else answering)(exchange)

        return script, seen

    async def test_one_retry_if_told_when(self) -> None:
        script, seen = self.limited(1, "0")
        metrics = Metrics("test")
        async with serving(script) as server, a_provider(a_config(server.port), metrics) as provider:
            assert await ask(provider) == ANSWER
        assert len(seen) == 2
        labels = {"provider": "main", "reason": "rate_limited"}
        assert metrics.registry.get_sample_value("test_provider_retries_total", labels) == 1

    async def test_no_second_retry(self) -> None:
        script, seen = self.limited(2, "0")
        error, _ = await failure_of(script)
        assert (error.code, error.message) == RATE_LIMITED
        assert len(seen) == 2

    @pytest.mark.parametrize("retry_after", ["11", "soon", ""])
    async def test_no_retry_if_too_late_or_unclear(self, retry_after: str) -> None:
        script, seen = self.limited(1, retry_after)
        error, _ = await failure_of(script)
        assert error.code == "rate_limited"
        assert len(seen) == 1

    async def test_the_wait_counts_towards_the_total(self) -> None:
        script, seen = self.limited(1, "10")
        error, _ = await failure_of(script, timeouts={"total": 0.1})
        assert (error.code, error.message) == TIMED_OUT
        assert len(seen) <= 1

    @pytest.mark.parametrize(
        ("header", "delay"),
        [
            (None, None),
            ("3", 3),
            ("0.5", 0.5),
            ("10", 10),
            ("10.1", None),
            ("-1", 0),
            ("nan", None),
            ("inf", None),
            (formatdate(1_000_004, usegmt=True), 4),
            (formatdate(999_000, usegmt=True), 0),
            (formatdate(1_000_011, usegmt=True), None),
            ("Tomorrow", None),
        ],
    )
    def test_retry_after_is_seconds_or_a_date(self, header: str | None, delay: float | None) -> None:
        assert retry_delay(header, now=1_000_000) == delay


class TestBrokenConnections:
    async def test_nobody_listens(self) -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            async with a_provider(a_config(unused.getsockname()[1])) as provider:
                with pytest.raises(ProviderError) as caught:
                    await ask(provider)
        assert (caught.value.code, caught.value.message) == UNAVAILABLE
        assert caught.value.detail

    async def test_tls_to_a_server_without(self) -> None:
        writers: list[asyncio.StreamWriter] = []

        def answer_in_clear(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writers.append(writer)
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        server = await asyncio.start_server(answer_in_clear, "127.0.0.1", 0)
        config = a_config(server.sockets[0].getsockname()[1], use_http=False)
        async with server, a_provider(config) as provider:
            with pytest.raises(ProviderError) as caught:
                await ask(provider)
            await drop(*writers)
        assert (caught.value.code, caught.value.message) == UNAVAILABLE

    @pytest.mark.parametrize("head", [b"", STREAM_HEAD, b"HTTP/1.1 200 OK\r\nContent-Le", b"not HTTP\r\n\r\n"])
    async def test_reset_before_the_first_event(self, head: bytes) -> None:
        async def script(exchange: Exchange) -> None:
            await exchange.send(head)
            exchange.reset()

        error, server = await failure_of(script)
        assert (error.code, error.message) == UNAVAILABLE
        assert len(server.exchanges) == 1

    @pytest.mark.parametrize("break_off", [Exchange.reset, lambda exchange: exchange.writer.close()])
    async def test_broken_in_the_middle(self, break_off: Callable[[Exchange], None]) -> None:
        """What came before is still delivered."""

        async def script(exchange: Exchange) -> None:
            await exchange.stream(delta("Hel"))
            await received.wait()
            break_off(exchange)

        received = asyncio.Event()
        async with opened(script) as (stream, server):
            assert await anext(stream) == TextDelta("Hel")
            received.set()
            with pytest.raises(ProviderError) as caught:
                await anext(stream)
        assert (caught.value.code, caught.value.message) == UNAVAILABLE
        assert len(server.exchanges) == 1

    async def test_the_end_without_a_terminal_event(self) -> None:
        error, _ = await failure_of(streaming(delta("Hel")))
        assert (error.code, error.message) == ("provider_error", "Provider ended the answer early")

    @pytest.mark.parametrize("version", [b"HTTP/1.0", b"HTTP/1.1"])
    async def test_a_server_that_just_closes(self, version: bytes) -> None:
        """No length and no chunks: the answer ends with the connection, its last blank line missing."""

        async def script(exchange: Exchange) -> None:
            await exchange.send(version + b" 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
            await exchange.send(delta("Hel") + delta("lo") + completed().rstrip())
            exchange.writer.close()

        events, _ = await ask_server(script)
        assert events == ANSWER

    async def test_an_event_without_end(self) -> None:
        async def script(exchange: Exchange) -> None:
            await exchange.send(STREAM_HEAD)
            while not exchange.writer.transport.is_closing():
                await exchange.chunk(b"data: " + b"x" * 500_000)

        error, _ = await failure_of(script)
        assert (error.code, error.message) == ("provider_error", "Provider sent an unreadable answer")


class TestTimeouts:
    @pytest.mark.parametrize(
        ("script", "limit"),
        [
            (silent_after(), "first_event"),
            (silent_after(b": comments are no events\n\n"), "first_event"),
            (silent_after(delta("Hel")), "idle"),
            (silent_after(delta("Hel")), "total"),
        ],
    )
    async def test_silence(self, script: Script, limit: str) -> None:
        error, server = await failure_of(script, timeouts={limit: 0.1})
        assert (error.code, error.message) == TIMED_OUT
        assert len(server.exchanges) <= 1  # none at all if this machine was the slow one

    async def test_the_total_also_ends_a_stream_that_flows(self) -> None:
        async def script(exchange: Exchange) -> None:
            await exchange.send(STREAM_HEAD)
            while not exchange.writer.transport.is_closing():
                await exchange.chunk(delta("again "))
                await asyncio.sleep(0.01)

        error, _ = await failure_of(script, timeouts={"total": 0.15})
        assert (error.code, error.message) == TIMED_OUT

    async def test_connecting(self) -> None:
        """A TCP connection without a TLS handshake is not a connection."""
        with socket.create_server(("127.0.0.1", 0)) as deaf:
            config = a_config(deaf.getsockname()[1], use_http=False, timeouts={"connect": 0.1})
            async with a_provider(config) as provider:
                with pytest.raises(ProviderError) as caught:
                    await ask(provider)
        assert (caught.value.code, caught.value.message) == TIMED_OUT

    async def test_a_slow_reader_is_not_a_silent_provider(self) -> None:
        events = []
        async with opened(answering, timeouts={"idle": 0.05}) as (stream, _):
            async for event in stream:
                events.append(event)
                await asyncio.sleep(0.06)
        assert events == ANSWER


class Watch:
    """A script that hangs after `frames` and tells when the caller dropped the connection."""

    def __init__(self, *frames: bytes, head: bool = True) -> None:
        self._frames = frames
        self._head = head
        self.requested = asyncio.Event()
        self.dropped: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    async def __call__(self, exchange: Exchange) -> None:
        if self._head:
            await exchange.stream(*self._frames)
        self.requested.set()
        self.dropped.set_result(await exchange.closed_by_caller())

    async def seconds_since(self, left_at: float) -> float:
        return await asyncio.wait_for(self.dropped, 5) - left_at


def now() -> float:
    return asyncio.get_running_loop().time()


class TestLeaving:
    async def test_break_drops_the_connection(self) -> None:
        watch = Watch(delta("Hel"), delta("lo"))
        async with serving(watch) as server, a_provider(a_config(server.port)) as provider:
            async with provider.open(a_request(), on_requested=lambda: None) as stream:
                async for _ in stream:
                    break
                left_at = now()
            assert await watch.seconds_since(left_at) < DROP_SECS

    async def test_an_exception_drops_the_connection(self) -> None:
        async def fail() -> None:
            async with provider.open(a_request(), on_requested=lambda: None) as stream:
                await anext(stream)
                raise LookupError

        watch = Watch(delta("Hel"))
        async with serving(watch) as server, a_provider(a_config(server.port)) as provider:
            with pytest.raises(LookupError):
                await fail()
            assert await watch.seconds_since(now()) < DROP_SECS

    @pytest.mark.parametrize("moment", ["requested", "opened", "received"])
    async def test_cancellation_drops_the_connection(self, moment: str) -> None:
        """At any moment: before the response's head, before the first event, between events."""
        watch = Watch(*([delta("Hel")] if moment == "received" else []), head=moment != "requested")
        moments = {"requested": watch.requested, "opened": asyncio.Event(), "received": asyncio.Event()}

        async def read() -> None:
            async with provider.open(a_request(), on_requested=lambda: None) as stream:
                moments["opened"].set()
                async for _ in stream:
                    moments["received"].set()

        async with serving(watch) as server, a_provider(a_config(server.port)) as provider:
            async with asyncio.TaskGroup() as tasks:
                reading = tasks.create_task(read())
                await moments[moment].wait()
                left_at = now()
                reading.cancel()
            assert await watch.seconds_since(left_at) < DROP_SECS

    async def test_a_timeout_drops_the_connection(self) -> None:
        watch = Watch(delta("Hel"))
        async with serving(watch) as server, a_provider(a_config(server.port, timeouts={"idle": 0.05})) as provider:
            with pytest.raises(ProviderError):
                await ask(provider)
            assert await watch.seconds_since(now()) < DROP_SECS

    async def test_a_reported_failure_drops_the_connection(self) -> None:
        watch = Watch(delta("Hel"), frame("response.failed", response={"error": {"message": "Boom"}}))
        async with serving(watch) as server, a_provider(a_config(server.port)) as provider:
            with pytest.raises(ProviderError, match="Boom"):
                await ask(provider)
            assert await watch.seconds_since(now()) < DROP_SECS

    async def test_events_before_a_failure_are_delivered_first(self) -> None:
        script = streaming(delta("Hel") + frame("error", message="Boom"))
        async with opened(script) as (stream, _):
            assert await anext(stream) == TextDelta("Hel")
            for _ in range(2):
                with pytest.raises(ProviderError, match="Boom"):
                    await anext(stream)

    async def test_nothing_after_the_terminal_event_counts(self) -> None:
        events, _ = await ask_server(streaming(delta("Hel") + delta("lo") + completed() + delta("?") + completed()))
        assert events == ANSWER

    async def test_a_finished_response_is_not_waited_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The caller goes on at once; the connection gets its time to end, and no more."""
        monkeypatch.setattr(http_stream, "DRAIN_SECS", 0.2)
        watch = Watch(delta("Hel"), delta("lo"), completed())
        async with serving(watch) as server, a_provider(a_config(server.port)) as provider:
            assert await ask(provider) == ANSWER
            left_at = now()
            assert not watch.dropped.done()
            assert 0.15 < await watch.seconds_since(left_at) < 0.2 + DROP_SECS
            await drained()

    async def test_closing_the_provider_ends_the_draining(self) -> None:
        watch = Watch(delta("Hel"), delta("lo"), completed())
        async with serving(watch) as server, a_provider(a_config(server.port)) as provider:
            assert await ask(provider) == ANSWER
            left_at = now()
            await provider.aclose()
            assert await watch.seconds_since(left_at) < DROP_SECS

    async def test_calls_do_not_disturb_each_other(self) -> None:
        async with serving(answering) as server, a_provider(a_config(server.port)) as provider:
            results = await asyncio.gather(*(ask(provider, model=a_model()) for _ in range(20)))
        assert results == [ANSWER] * 20
        assert len(server.exchanges) == 20

from __future__ import annotations

import socket

import aiohttp
import pytest
from aiohttp import web
from prometheus_client.metrics import MetricWrapperBase

from shared.metrics import Metrics, serve_metrics
from shared.settings import ConfigurationError
from tests.support.series import SERIES


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_metrics_and_extra_routes_are_served_on_one_port() -> None:
    async def health(request: web.Request) -> web.StreamResponse:
        return web.json_response({"status": "ok"})

    metrics = Metrics("mini_chat")
    metrics.stream_started.labels("openai", "gpt-5.2").inc()
    metrics.ttft_provider_ms.labels("openai", "gpt-5.2").observe(42)
    port = free_port()
    async with (
        serve_metrics(metrics, host="127.0.0.1", port=port, key="metrics.api_port", routes={"/healthz": health}),
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as client,
    ):
        text = await (await client.get("/metrics")).text()
        assert (await client.get("/healthz")).status == 200
    assert 'mini_chat_stream_started_total{model="gpt-5.2",provider="openai"} 1.0' in text
    assert 'mini_chat_ttft_provider_ms_bucket{le="50.0",model="gpt-5.2",provider="openai"} 1.0' in text
    assert "_created" not in text


async def test_port_zero_serves_nothing() -> None:
    async with serve_metrics(Metrics("x"), host="127.0.0.1", port=0, key="metrics.api_port"):
        pass


async def test_a_busy_port_is_named_with_its_setting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConfigurationError, match=rf"metrics\.worker_port: cannot listen on 127\.0\.0\.1:{port}"):
            async with serve_metrics(Metrics("x"), host="127.0.0.1", port=port, key="metrics.worker_port"):
                pass


def test_the_registered_series_are_those_of_the_contract() -> None:
    """Each is an attribute of its own name, of its type, with its labels; there is none beside them."""
    metrics = Metrics("x")
    registered = {}
    for name, value in vars(metrics).items():
        if isinstance(value, MetricWrapperBase):
            labels = value._labelnames
            registered[name] = (value._type, frozenset(labels))
    assert registered == SERIES
    assert {family.name for family in metrics.registry.collect()} == {f"x_{name}" for name in SERIES}

"""Spans that leave the process: what is recorded, and where it goes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from pydantic import ValidationError

from shared.settings import ConfigurationError, TracingSettings
from shared.trace import current_trace_id, exporting, is_exporting, received, span, start_span

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def to_file(path: Path) -> TracingSettings:
    return TracingSettings(otlp_endpoint=path.as_uri())


def spans_in(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


async def test_spans_are_written_when_the_process_ends(tmp_path: Path) -> None:
    path = tmp_path / "with space.jsonl"
    async with exporting(to_file(path), process="api"):
        with span("outer", within=received(f"00-{TRACE}-{PARENT}-01"), attributes={"a": 1}):
            assert current_trace_id() == TRACE
            start_span("earlier", began_ns=1_000_000_000).end()
    earlier, outer = spans_in(path)
    assert earlier["context"]["trace_id"] == outer["context"]["trace_id"] == f"0x{TRACE}"
    assert earlier["parent_id"] == outer["context"]["span_id"]
    assert (outer["parent_id"], outer["attributes"]) == (f"0x{PARENT}", {"a": 1})
    assert earlier["start_time"] == "1970-01-01T00:00:01.000000Z"
    assert outer["resource"]["attributes"]["service.name"] == "mini-chat-api"
    assert not is_exporting()


async def test_the_caller_decides_what_is_sampled(tmp_path: Path) -> None:
    path = tmp_path / "spans.jsonl"
    async with exporting(to_file(path), process="worker"):
        for flags in ("00", "01"):
            with span(f"asked with {flags}", within=received(f"00-{TRACE}-{PARENT}-{flags}")):
                assert current_trace_id() == TRACE
        with span("asked with nothing", within=received(None)):
            pass
    assert [span["name"] for span in spans_in(path)] == ["asked with 01", "asked with nothing"]


async def test_a_failure_is_told_by_its_type_alone(tmp_path: Path) -> None:
    path = tmp_path / "spans.jsonl"
    async with exporting(to_file(path), process="worker"):
        with pytest.raises(ValueError, match="said"), span("work"):
            raise ValueError("what the user said")
    (written,) = spans_in(path)
    assert written["status"] == {"status_code": "ERROR"}
    assert (written["attributes"], written["events"]) == ({"error.type": "ValueError"}, [])


async def test_a_collector_gets_spans_by_otlp() -> None:
    received_spans: list[str] = []

    async def take(request: web.Request) -> web.Response:
        message = ExportTraceServiceRequest.FromString(await request.read())
        for resource in message.resource_spans:
            received_spans.extend(span.name for scope in resource.scope_spans for span in scope.spans)
        return web.Response()

    app = web.Application()
    app.router.add_post("/v1/traces", take)
    async with TestServer(app, host="127.0.0.1") as server:
        settings = TracingSettings(otlp_endpoint=f"http://127.0.0.1:{server.port}")
        async with exporting(settings, process="api"):
            with span("work"):
                pass
    assert received_spans == ["work"]


@pytest.mark.parametrize("endpoint", ["collector:4318", "ftp://collector", "http://", "file:spans.jsonl", "nonsense"])
def test_an_endpoint_that_cannot_be_is_refused(endpoint: str) -> None:
    with pytest.raises(ValidationError, match="otlp_endpoint"):
        TracingSettings(otlp_endpoint=endpoint)


async def test_a_file_that_cannot_be_written_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"tracing\.otlp_endpoint: .*: No such file"):
        async with exporting(to_file(tmp_path / "nowhere" / "spans.jsonl"), process="api"):
            pass


def test_nothing_of_the_sdk_is_imported_without_an_endpoint() -> None:
    """Tracing that is off costs nothing."""
    program = (
        "import asyncio, sys, api.main, worker.main\n"
        "from shared.settings import TracingSettings\n"
        "from shared.trace import exporting, span\n"
        "async def main():\n"
        "    async with exporting(TracingSettings(), process='api'):\n"
        "        with span('work'): pass\n"
        "asyncio.run(main())\n"
        "assert not [name for name in sys.modules if name.startswith(('opentelemetry.sdk', 'opentelemetry.exporter'))]"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)

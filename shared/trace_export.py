"""Where spans go: to a collector by OTLP over HTTP, or, without one, into a file, a JSON object a line.

They are sent in batches by a thread of the SDK; a collector that is away costs spans, never a request.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased

from shared.ids import process_name
from shared.settings import ConfigurationError

TRACES_PATH: Final = "/v1/traces"
DELAY_MS: Final = 1_000
EXPORT_TIMEOUT_SECS: Final = 3
"""For a batch, its retries included: the end of a process must not wait longer for a collector that is away."""


class FileExporter(SpanExporter):
    """Appends to a file that other processes may append to as well."""

    def __init__(self, path: Path) -> None:
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        except OSError as error:
            raise ConfigurationError(f"tracing.otlp_endpoint: {path}: {error.strerror}") from None

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        # One write, so that lines of several processes do not mix.
        os.write(self._file, "".join(span.to_json(indent=None) + "\n" for span in spans).encode())
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        os.close(self._file)


def create_provider(endpoint: str, *, process: str) -> TracerProvider:
    """A source of tracers whose spans go to `endpoint`; its `shutdown` sends what is left, and blocks.

    A trace that begins here is sampled; of others the caller's flag decides.

    Raises:
        ConfigurationError: the file cannot be written.
    """
    resource = Resource({"service.name": f"mini-chat-{process}", "service.instance.id": process_name()})
    provider = TracerProvider(sampler=ParentBased(ALWAYS_ON), resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(_exporter(endpoint), schedule_delay_millis=DELAY_MS))
    return provider


def _exporter(endpoint: str) -> SpanExporter:
    address = urlsplit(endpoint)
    if address.scheme == "file":
        return FileExporter(Path(unquote(address.path)))
    if address.path in ("", "/"):
        endpoint = address._replace(path=TRACES_PATH).geturl()
    return OTLPSpanExporter(endpoint=endpoint, timeout=EXPORT_TIMEOUT_SECS)

"""Every metric of a process, by name, and the port on which Prometheus reads them.

Counters are exposed with `_total`; histograms are in milliseconds. `provider` is a provider id and `model` a catalog
id; no label names a tenant, a user, a chat, a request or a file, nor holds free text.
"""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.exposition import choose_encoder

from shared.quotas.metrics import QuotaMetrics
from shared.settings import ConfigurationError

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

MILLISECONDS: Final = (
    *(1, 2, 5, 10, 20, 30, 50, 75, 100, 200, 300, 500),
    *(1_000, 2_000, 5_000, 10_000, 20_000, 60_000, 120_000, 300_000, 900_000),
)
"""Fine where the promises lie (30, 50, 100 and 200 ms), coarse up to the longest turn."""

COUNTS: Final = (0, 1, 2, 3, 5, 10, 20, 50)


class Metrics:
    """The metrics of one process, in a registry of its own."""

    def __init__(self, prefix: str) -> None:
        self.registry = CollectorRegistry()
        self._prefix = prefix
        by_model = ("provider", "model")

        self.stream_started = self._counter("stream_started", "Turns whose stream began", by_model)
        self.stream_completed = self._counter("stream_completed", "Turns that ended with done", by_model)
        self.stream_incomplete = self._counter(
            "stream_incomplete", "Turns whose answer the provider cut off", (*by_model, "reason")
        )
        self.stream_failed = self._counter("stream_failed", "Turns that ended with error", (*by_model, "error_code"))
        self.stream_disconnected = self._counter("stream_disconnected", "Clients that left", ("stage",))
        self.stream_replay = self._counter("stream_replay", "Turns read again, from storage or log", ("reason",))
        self.stream_resumed = self._counter("stream_resumed", "Streams resumed after an event id", ("source",))
        self.active_streams = self._gauge("active_streams", "Streams open in this process", ("instance",)).labels(
            f"{socket.gethostname()}:{os.getpid()}"
        )
        self.attached_clients = self._gauge("attached_clients", "Clients attached to running turns")

        self.ttft_provider_ms = self._histogram("ttft_provider_ms", "Request to first delta of the provider", by_model)
        self.stream_total_latency_ms = self._histogram("stream_total_latency_ms", "Length of a turn", by_model)
        self.dispatch_latency_ms = self._histogram("dispatch_latency_ms", "Accepted request to running worker")
        self.finalization_latency_ms = self._histogram("finalization_latency_ms", "Transaction that settles a turn")

        self.turns_queued = self._gauge("turns_queued", "Running turns that no worker holds")
        self.turns_running = self._gauge("turns_running", "Turns that this worker holds")
        self.turn_attempts = self._counter("turn_attempts", "Attempts begun", ("reason",))
        self.cancel_requested = self._counter("cancel_requested", "Requests to stop a turn", ("trigger",))
        self.cancel_effective = self._counter("cancel_effective", "Turns that were stopped", ("trigger",))
        self.time_to_abort_ms = self._histogram(
            "time_to_abort_ms", "Stop heard by the worker to provider connection closed", ("trigger",)
        )
        self.orphan_detected = self._counter("orphan_detected", "Stuck turns found", ("reason",))
        self.orphan_finalized = self._counter("orphan_finalized", "Stuck turns failed", ("reason",))
        self.orphan_scan_duration_seconds = Histogram(
            "orphan_scan_duration_seconds",
            "One pass of the watchdog",
            namespace=self._prefix,
            registry=self.registry,
        )
        self.turn_fenced = self._counter("turn_fenced", "Attempts that found a newer one in their place")

        self.provider_requests = self._counter("provider_requests", "Requests to providers", ("provider", "endpoint"))
        self.provider_errors = self._counter("provider_errors", "Refusals by providers", ("provider", "status"))
        self.provider_latency_ms = self._histogram(
            "provider_latency_ms", "Request to response headers of a provider", ("provider", "endpoint")
        )
        self.catalog_reload = self._counter("catalog_reload", "Looks at the catalog file", ("result",))
        by_kind = ("kind",)
        self.outbox_enqueue = self._counter("outbox_enqueue", "Messages written to the outbox", ("kind", "result"))
        self.outbox_handler = self._counter("outbox_handler", "Tries to deliver a message", ("kind", "result"))
        self.outbox_pending = self._gauge("outbox_pending", "Messages not yet delivered", by_kind)
        self.outbox_dead_letter_backlog = self._gauge(
            "outbox_dead_letter_backlog", "Dead letters that nobody has resolved", by_kind
        )
        self.outbox_dead_letter_oldest_age_seconds = self._gauge(
            "outbox_dead_letter_oldest_age_seconds", "How long the oldest of them has waited", by_kind
        )
        self.audit_emit = self._counter("audit_emit", "Audit events on their way out", ("result",))
        self.audit_redaction_hits = self._counter("audit_redaction_hits", "Secrets taken out of content", ("pattern",))
        self.unknown_error_code = self._counter("unknown_error_code", "Turns that failed for no known reason")
        self.quota = QuotaMetrics(prefix, self.registry)
        self.context_truncation = self._counter(
            "context_truncation", "Context items left out to fit the budget", ("truncated_item",)
        )

        self.thread_summary_trigger = self._counter(
            "thread_summary_trigger", "Completed turns looked at for a summary", ("result",)
        )
        self.thread_summary_execution = self._counter(
            "thread_summary_execution", "Tries to write a summary", ("result",)
        )
        self.thread_summary_cas_conflicts = self._counter(
            "thread_summary_cas_conflicts", "Summaries dropped because the stored one had moved"
        )
        self.summary_fallback = self._counter("summary_fallback", "Summaries given up: the old one stays")

        self.tool_calls = self._counter("tool_calls", "Tool calls of providers", ("tool", "phase"))
        self.tool_call_limited = self._counter("tool_call_limited", "Turns ended by a limit of calls", ("tool",))
        self.code_interpreter_calls = self._counter(
            "code_interpreter_calls", "Completed runs of the code interpreter", ("model",)
        )
        self.file_search_latency_ms = self._histogram(
            "file_search_latency_ms", "Start to end of a file search", by_model
        )
        self.web_search_latency_ms = self._histogram("web_search_latency_ms", "Start to end of a web search", by_model)
        self.retrieval_latency_ms = self._histogram("retrieval_latency_ms", "The same, by provider", ("provider",))
        self.retrieval_chunks_returned = self._count_histogram("retrieval_chunks_returned", "Results of a file search")
        self.retrieval_zero_hit = self._counter("retrieval_zero_hit", "File searches that found nothing")
        self.citations_count = self._count_histogram("citations_count", "Citations of an answer that has any")
        self.citations_by_source = self._counter("citations_by_source", "Citations sent", ("source",))

    def _counter(self, name: str, meaning: str, labels: tuple[str, ...] = ()) -> Counter:
        return Counter(name, meaning, labels, namespace=self._prefix, registry=self.registry)

    def _gauge(self, name: str, meaning: str, labels: tuple[str, ...] = ()) -> Gauge:
        return Gauge(name, meaning, labels, namespace=self._prefix, registry=self.registry)

    def _histogram(self, name: str, meaning: str, labels: tuple[str, ...] = ()) -> Histogram:
        return Histogram(name, meaning, labels, namespace=self._prefix, registry=self.registry, buckets=MILLISECONDS)

    def _count_histogram(self, name: str, meaning: str) -> Histogram:
        return Histogram(name, meaning, namespace=self._prefix, registry=self.registry, buckets=COUNTS)


@asynccontextmanager
async def serve_metrics(
    metrics: Metrics, *, host: str, port: int, key: str, routes: Mapping[str, Handler] | None = None
) -> AsyncIterator[None]:
    """Serve `/metrics`, and `routes` by path, for the length of the block; port 0 serves nothing.

    Args:
        key: the setting that the port comes from, to name it when the port is taken.

    Raises:
        ConfigurationError: the port cannot be had.
    """
    if port == 0:
        yield
        return
    app = web.Application()
    app.router.add_get("/metrics", _exposition_of(metrics.registry))
    for path, handler in (routes or {}).items():
        app.router.add_get(path, handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise ConfigurationError(f"{key}: cannot listen on {host}:{port}: {error.strerror or error}") from None
        yield
    finally:
        await runner.cleanup()


def _exposition_of(registry: CollectorRegistry) -> Handler:
    disable_created_metrics()  # type: ignore[no-untyped-call]  # a gauge with the time of birth beside every counter tells nobody anything

    async def expose(request: web.Request) -> web.StreamResponse:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(registry), headers={"Content-Type": content_type})

    return expose

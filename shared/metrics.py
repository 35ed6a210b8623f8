"""Every metric of a process, by name, and the port on which Prometheus reads them.

Counters are exposed with `_total`; histograms are in milliseconds. `provider` is a provider id and `model` a catalog
id; no label names a tenant, a user, a chat, a request or a file, nor holds free text.
"""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.exposition import choose_encoder

from shared.settings import ConfigurationError

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

MILLISECONDS: Final = (
    *(0.5, 1, 2, 5, 10, 20, 30, 50, 75, 100, 200, 300, 500),
    *(1_000, 2_000, 5_000, 10_000, 20_000, 60_000, 120_000, 300_000, 900_000),
)
"""Fine where the promises lie (30, 50, 100 and 200 ms), coarse up to the longest turn."""

SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
COUNTS: Final = (0, 1, 2, 3, 5, 10, 20, 50, 100)
TOKENS: Final = (10, 50, 100, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000)
BYTES: Final = tuple(1024 * 4**power for power in range(10))
"""From 1 KiB to 256 MiB, each four times the one before."""

Labels = tuple[str, ...]

BY_MODEL: Final = ("provider", "model")
BY_KIND: Final = ("kind",)
BY_PERIOD: Final = ("period",)
BY_REASON: Final = ("reason",)
BY_RESULT: Final = ("result",)
BY_TOOL: Final = ("tool",)
BY_TRIGGER: Final = ("trigger",)


class Metrics:
    """The metrics of one process, in a registry of its own; the attribute is called as the series.

    A gauge by `instance` already has its label: one process sets one value.
    """

    def __init__(self, prefix: str) -> None:
        self.registry = CollectorRegistry()
        self._prefix = prefix
        self._instance = f"{socket.gethostname()}:{os.getpid()}"
        self._declare_streams()
        self._declare_queue_and_relay()
        self._declare_cancellation()
        self._declare_quotas()
        self._declare_tools_and_context()
        self._declare_summaries_and_mutations()
        self._declare_providers()
        self._declare_attachments()
        self._declare_cleanup()
        self._declare_storage()
        self._begin_at_zero()

    def _declare_streams(self) -> None:
        self.stream_started = self._counter("stream_started", "Turns whose stream began", BY_MODEL)
        self.stream_completed = self._counter("stream_completed", "Turns that ended with done", BY_MODEL)
        self.stream_incomplete = self._counter(
            "stream_incomplete", "Turns whose answer the provider cut off", (*BY_MODEL, "reason")
        )
        self.stream_failed = self._counter("stream_failed", "Turns that ended with error", (*BY_MODEL, "error_code"))
        self.stream_disconnected = self._counter("stream_disconnected", "Clients that left", ("stage",))
        self.stream_replay = self._counter("stream_replay", "Turns read again, from storage or log", BY_REASON)
        self.active_streams = self._instance_gauge("active_streams", "Streams open in this process")
        self.ttft_provider_ms = self._histogram("ttft_provider_ms", "Request to first delta of the provider", BY_MODEL)
        self.ttft_overhead_ms = self._histogram(
            "ttft_overhead_ms", "First delta of the provider to its place in the event log", BY_MODEL
        )
        self.stream_total_latency_ms = self._histogram("stream_total_latency_ms", "Length of a turn", BY_MODEL)

    def _declare_queue_and_relay(self) -> None:
        self.dispatch_latency_ms = self._histogram("dispatch_latency_ms", "Accepted request to running worker")
        self.relay_lag_ms = self._histogram(
            "relay_lag_ms", "New entry heard to written to a client, of one stream in 16"
        )
        self.turns_queued = self._gauge("turns_queued", "Running turns that no worker holds")
        self.turns_running = self._gauge("turns_running", "Running turns that a worker holds")
        self.attached_clients = self._gauge("attached_clients", "Clients attached to running turns")
        self.turn_attempts = self._counter("turn_attempts", "Attempts begun", BY_REASON)
        self.turn_fenced = self._counter("turn_fenced", "Attempts that found a newer one in their place")
        self.stream_resumed = self._counter("stream_resumed", "Streams resumed after an event id", ("source",))

    def _declare_cancellation(self) -> None:
        self.cancel_requested = self._counter("cancel_requested", "Requests to stop a turn", BY_TRIGGER)
        self.cancel_effective = self._counter("cancel_effective", "Turns that were stopped", BY_TRIGGER)
        self.time_to_abort_ms = self._histogram(
            "time_to_abort_ms", "Stop heard by the worker to provider connection closed", BY_TRIGGER
        )
        self.tokens_after_cancel = self._histogram(
            "tokens_after_cancel", "Deltas that came in after the stop was heard", BY_TRIGGER, COUNTS
        )
        self.time_from_ui_disconnect_to_cancel_ms = self._histogram(
            "time_from_ui_disconnect_to_cancel_ms", "Last client gone to stop asked for", BY_TRIGGER
        )
        self.streams_aborted = self._counter("streams_aborted", "Streams cut off before their end", BY_TRIGGER)
        self.orphan_detected = self._counter("orphan_detected", "Stuck turns found", BY_REASON)
        self.orphan_finalized = self._counter("orphan_finalized", "Stuck turns failed", BY_REASON)
        self.orphan_scan_duration_seconds = self._histogram(
            "orphan_scan_duration_seconds", "One pass of the watchdog", buckets=SECONDS
        )

    def _declare_quotas(self) -> None:
        """Counters by period count turns, not credits: each turn moves the buckets of both periods."""
        by_decision = ("decision", "model", "tier")
        self.quota_preflight = self._counter("quota_preflight", "Decisions about turns", by_decision)
        self.quota_preflight_v2 = self._counter(
            "quota_preflight_v2", "Decisions about turns, with and without images", ("kind", *by_decision)
        )
        self.quota_tier_downgrade = self._counter(
            "quota_tier_downgrade", "Turns in a lower tier", ("from_tier", "to_tier")
        )
        self.quota_reserve = self._counter("quota_reserve", "Reserves taken", BY_PERIOD)
        self.quota_commit = self._counter("quota_commit", "Reserves settled", BY_PERIOD)
        self.quota_overshoot = self._counter("quota_overshoot", "Turns that used more than was reserved", BY_PERIOD)
        self.quota_negative = self._counter(
            "quota_negative", "Buckets with less reserved than a turn of theirs", BY_PERIOD
        )
        self.quota_image_commit = self._counter("quota_image_commit", "Images charged", BY_PERIOD)
        self.quota_overshoot_exceeded = self._counter("quota_overshoot_exceeded", "Charges capped at the reserve")
        self.quota_estimated_tokens = self._histogram(
            "quota_estimated_tokens", "Input tokens estimated for a turn", buckets=TOKENS
        )
        self.quota_actual_tokens = self._histogram("quota_actual_tokens", "Tokens charged for a turn", buckets=TOKENS)
        self.quota_overshoot_tokens = self._histogram(
            "quota_overshoot_tokens", "Tokens beyond the reserve of a turn", buckets=TOKENS
        )
        self.quota_reserved_tokens = self._gauge(
            "quota_reserved_tokens", "Tokens reserved by running turns of the current period", BY_PERIOD
        )
        self.credits_overflow = self._counter("credits_overflow", "Charges out of bounds")
        self.unknown_error_code = self._counter("unknown_error_code", "Turns that failed for no known reason")

    def _declare_tools_and_context(self) -> None:
        self.tool_calls = self._counter("tool_calls", "Tool calls of providers", ("tool", "phase"))
        self.tool_call_limited = self._counter("tool_call_limited", "Turns ended by a limit of calls", BY_TOOL)
        self.web_search_disabled = self._counter(
            "web_search_disabled", "Sends refused because web search is switched off"
        )
        self.code_interpreter_disabled = self._counter(
            "code_interpreter_disabled", "Turns whose spreadsheets went unused because the tool is switched off"
        )
        self.code_interpreter_calls = self._counter(
            "code_interpreter_calls", "Completed runs of the code interpreter", ("model",)
        )
        self.file_search_latency_ms = self._histogram(
            "file_search_latency_ms", "Start to end of a file search", BY_MODEL
        )
        self.web_search_latency_ms = self._histogram("web_search_latency_ms", "Start to end of a web search", BY_MODEL)
        self.citations_count = self._histogram("citations_count", "Citations of an answer that has any", buckets=COUNTS)
        self.citations_by_source = self._counter("citations_by_source", "Citations sent", ("source",))
        self.retrieval_latency_ms = self._histogram(
            "retrieval_latency_ms", "Start to end of a file search, by provider", ("provider",)
        )
        self.retrieval_chunks_returned = self._histogram(
            "retrieval_chunks_returned", "Results of a file search", buckets=COUNTS
        )
        self.retrieval_zero_hit = self._counter("retrieval_zero_hit", "File searches that found nothing")
        self.context_truncation = self._counter(
            "context_truncation", "Context items left out to fit the budget", ("truncated_item",)
        )

    def _declare_summaries_and_mutations(self) -> None:
        self.thread_summary_trigger = self._counter(
            "thread_summary_trigger", "Completed turns looked at for a summary", BY_RESULT
        )
        self.thread_summary_execution = self._counter("thread_summary_execution", "Tries to write a summary", BY_RESULT)
        self.thread_summary_cas_conflicts = self._counter(
            "thread_summary_cas_conflicts", "Summaries dropped because the stored one had moved"
        )
        self.summary_fallback = self._counter("summary_fallback", "Summaries given up: the old one stays")
        self.turn_mutation = self._counter("turn_mutation", "Retries, edits and deletions of turns", ("op", "result"))
        self.turn_mutation_latency_ms = self._histogram(
            "turn_mutation_latency_ms", "Retry, edit or deletion, request to commit or refusal", ("op",)
        )

    def _declare_providers(self) -> None:
        by_endpoint = ("provider", "endpoint")
        self.provider_requests = self._counter("provider_requests", "Requests to providers", by_endpoint)
        self.provider_errors = self._counter("provider_errors", "Refusals by providers", ("provider", "status"))
        self.provider_retries = self._counter("provider_retries", "Requests sent again", ("provider", "reason"))
        self.provider_circuit_open = self._counter(
            "provider_circuit_open", "Times that a provider was left alone for failing", ("provider",)
        )
        self.provider_latency_ms = self._histogram(
            "provider_latency_ms", "Request to response headers of a provider", by_endpoint
        )

    def _declare_attachments(self) -> None:
        self.attachment_upload = self._counter("attachment_upload", "Uploads", ("kind", "result"))
        self.attachment_index = self._counter("attachment_index", "Tries to make a file searchable", BY_RESULT)
        self.attachment_summary = self._counter("attachment_summary", "Tries to summarize a document", BY_RESULT)
        self.attachments_pending = self._instance_gauge("attachments_pending", "Attachments not yet ready")
        self.attachments_failed = self._instance_gauge("attachments_failed", "Attachments that failed")
        self.attachment_upload_bytes = self._histogram(
            "attachment_upload_bytes", "Size of an upload", BY_KIND, buckets=BYTES
        )
        self.attachment_index_latency_ms = self._histogram(
            "attachment_index_latency_ms", "Stored upload to searchable file"
        )
        self.upload_rejected = self._counter("upload_rejected", "Uploads beyond a limit of their chat", BY_REASON)
        self.image_inputs_per_turn = self._histogram("image_inputs_per_turn", "Images sent with a turn", buckets=COUNTS)
        self.image_turns = self._counter("image_turns", "Turns with images", ("model",))
        self.media_rejected = self._counter("media_rejected", "Sends refused for their images", BY_REASON)

    def _declare_cleanup(self) -> None:
        of_resource = ("resource_type",)
        self.cleanup_completed = self._counter("cleanup_completed", "Resources removed at a provider", of_resource)
        self.cleanup_failed = self._counter("cleanup_failed", "Resources that could not be removed", of_resource)
        self.cleanup_retry = self._counter("cleanup_retry", "Removals put off", (*of_resource, "reason"))
        self.cleanup_backlog = self._gauge("cleanup_backlog", "Resources not yet removed", ("state", *of_resource))
        self.cleanup_vector_store_with_failed_attachments = self._counter(
            "cleanup_vector_store_with_failed_attachments", "Vector stores removed although a file of theirs was not"
        )
        self.cleanup_latency_ms = self._histogram("cleanup_latency_ms", "One removal", ("op",))

    def _declare_storage(self) -> None:
        self.audit_emit = self._counter("audit_emit", "Audit events on their way out", BY_RESULT)
        self.audit_redaction_hits = self._counter("audit_redaction_hits", "Secrets taken out of content", ("pattern",))
        self.finalization_latency_ms = self._histogram("finalization_latency_ms", "Transaction that settles a turn")
        self.outbox_enqueue = self._counter("outbox_enqueue", "Messages written to the outbox", (*BY_KIND, "result"))
        self.outbox_handler = self._counter("outbox_handler", "Tries to deliver a message", (*BY_KIND, "result"))
        self.outbox_pending = self._gauge("outbox_pending", "Messages not yet delivered", BY_KIND)
        self.outbox_dead_letter_backlog = self._gauge(
            "outbox_dead_letter_backlog", "Dead letters that nobody has resolved", BY_KIND
        )
        self.outbox_dead_letter_oldest_age_seconds = self._gauge(
            "outbox_dead_letter_oldest_age_seconds", "How long the oldest of them has waited", BY_KIND
        )
        self.db_query_latency_ms = self._histogram("db_query_latency_ms", "Statements of the database", ("query",))
        self.db_errors = self._counter("db_errors", "Statements that failed, by SQLSTATE", ("query", "code"))

    def _begin_at_zero(self) -> None:
        """Show what alerts watch before it happens: nobody sees the first increase of a series that begins with it."""
        for counter, values in (
            (self.audit_emit, ("ok", "failed", "dropped")),
            (self.cleanup_failed, ("file",)),
            (self.orphan_detected, ("stale_progress", "max_age")),
            (self.orphan_finalized, ("stale_progress", "max_age")),
            (self.turn_attempts, ("first", "worker_lost", "log_lost", "drain")),
            (self.quota_negative, ("daily", "monthly")),
        ):
            for value in values:
                counter.labels(value)

    def _counter(self, name: str, meaning: str, labels: Labels = ()) -> Counter:
        return Counter(name, meaning, labels, namespace=self._prefix, registry=self.registry)

    def _gauge(self, name: str, meaning: str, labels: Labels = ()) -> Gauge:
        return Gauge(name, meaning, labels, namespace=self._prefix, registry=self.registry)

    def _instance_gauge(self, name: str, meaning: str) -> Gauge:
        return self._gauge(name, meaning, ("instance",)).labels(self._instance)

    def _histogram(
        self, name: str, meaning: str, labels: Labels = (), buckets: Sequence[float] = MILLISECONDS
    ) -> Histogram:
        return Histogram(name, meaning, labels, namespace=self._prefix, registry=self.registry, buckets=buckets)


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

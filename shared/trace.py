"""Traces, by OpenTelemetry's API: which one a request belongs to, on its way through API, job and provider call.

Every request and every job belongs to a trace: problems, logs and audit events name its id, and W3C's `traceparent`
carries it from the caller into the job. Spans are recorded only while `exporting` has somewhere to send them, and only
of traces that the caller wants sampled; else a span is no more than its ids, and the SDK is not even imported.

No span holds what users write, what models answer, or the text of an error. What happens per event is not traced.

Source: https://www.w3.org/TR/trace-context/
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Final

from opentelemetry.context import Context, attach, detach
from opentelemetry.trace import (
    INVALID_SPAN,
    NonRecordingSpan,
    NoOpTracer,
    Span,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    Tracer,
    format_trace_id,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from shared.settings import TracingSettings

_PROPAGATOR: Final = TraceContextTextMapPropagator()
_NOBODY: Final = set_span_in_context(INVALID_SPAN, Context())


@dataclass
class _Active:
    tracer: Tracer


_active: Final = _Active(NoOpTracer())


def is_exporting() -> bool:
    """Whether spans go anywhere: what is only worth doing for them can be left out."""
    return not isinstance(_active.tracer, NoOpTracer)


def received(traceparent: str | None) -> Context:
    """The caller's place in its trace; nobody's if the header is absent or not valid, so that a new trace begins."""
    return _PROPAGATOR.extract({"traceparent": traceparent}, _NOBODY) if traceparent else _NOBODY


def start_span(
    name: str,
    *,
    within: Context | None = None,
    kind: SpanKind = SpanKind.INTERNAL,
    began_ns: int | None = None,
    attributes: Mapping[str, AttributeValue] | None = None,
) -> Span:
    """A span, which the caller must end.

    Args:
        within: what it is a part of; the current span by default.
        began_ns: epoch nanoseconds, if it began earlier.
    """
    span = _active.tracer.start_span(name, within, kind, attributes, start_time=began_ns)
    return span if span.get_span_context().is_valid else unrecorded_span()


def unrecorded_span() -> Span:
    """A trace of its own that is only ids, whoever exports."""
    return NonRecordingSpan(_new_trace())


@contextmanager
def span(
    name: str,
    *,
    within: Context | None = None,
    kind: SpanKind = SpanKind.INTERNAL,
    attributes: Mapping[str, AttributeValue] | None = None,
) -> Iterator[Span]:
    """A span that is current for the length of the block. An exception marks it as failed, by its type alone."""
    started = start_span(name, within=within, kind=kind, attributes=attributes)
    token = attach(set_span_in_context(started))
    try:
        yield started
    except Exception as error:
        fail(started, type(error).__name__)
        raise
    finally:
        detach(token)
        started.end()


def fail(span: Span, error_type: str) -> None:
    """Mark the span as failed. `error_type` is a code or the name of a class, never a text."""
    span.set_status(StatusCode.ERROR)
    span.set_attribute("error.type", error_type)


def make_current(span: Span) -> None:
    """Have the rest of the running task, and what it starts from here on, work for `span`."""
    attach(set_span_in_context(span, Context()))


def current_trace_id() -> str | None:
    """32 hex digits; None outside of any trace."""
    return trace_id_of(get_current_span())


def trace_id_of(span: Span) -> str | None:
    context = span.get_span_context()
    return format_trace_id(context.trace_id) if context.is_valid else None


def current_traceparent() -> str | None:
    """The header for whatever the current span calls."""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier)
    return carrier.get("traceparent")


@asynccontextmanager
async def exporting(settings: TracingSettings, *, process: str) -> AsyncIterator[None]:
    """Record spans for the length of the block, if a place to send them to is configured; then send what is left.

    Args:
        process: what kind of process they are from, such as `api`.
    """
    if not settings.otlp_endpoint:
        yield
        return
    from shared.trace_export import create_provider

    provider = create_provider(settings.otlp_endpoint, process=process)
    _active.tracer = provider.get_tracer("mini_chat")
    try:
        yield
    finally:
        _active.tracer = NoOpTracer()
        await asyncio.to_thread(provider.shutdown)


def _new_trace() -> SpanContext:
    return SpanContext(
        trace_id=secrets.randbits(128) or 1,
        span_id=secrets.randbits(64) or 1,
        is_remote=False,
        trace_flags=TraceFlags(TraceFlags.SAMPLED),
    )

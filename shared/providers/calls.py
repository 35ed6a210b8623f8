"""One call of a provider, as operators see it: counted, timed, and a span of the trace that it is made for."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from opentelemetry.trace import Span, SpanKind
from opentelemetry.util.types import AttributeValue

from shared.metrics import Metrics
from shared.providers.failures import Failure
from shared.trace import fail, span


class ProviderCall:
    """Tell it what happens."""

    def __init__(self, metrics: Metrics, span: Span, *, provider: str, endpoint: str) -> None:
        self._metrics = metrics
        self._span = span
        self._labels: Final = {"provider": provider, "endpoint": endpoint}
        self.sent_at: float | None = None
        """By the monotonic clock; None until the request is on its way."""

    def send(self) -> None:
        """The request goes out: from here on it may cost money."""
        self.sent_at = time.monotonic()
        self._metrics.provider_requests.labels(**self._labels).inc()

    def answer(self) -> None:
        """The answer, or its head if it is a stream, is there."""
        self._metrics.provider_latency_ms.labels(**self._labels).observe(self.elapsed_ms)
        self._span.set_attribute("http.response.status_code", 200)

    def note(self, event: str) -> None:
        """Something worth a mark in the trace."""
        self._span.add_event(event)

    def fail(self, failure: Failure) -> None:
        self._metrics.provider_errors.labels(provider=self._labels["provider"], status=failure.status_label).inc()
        if failure.http_status is not None:
            self._span.set_attribute("http.response.status_code", failure.http_status)
        fail(self._span, failure.code)

    @property
    def elapsed_ms(self) -> float:
        """Since the request went out."""
        return 0.0 if self.sent_at is None else (time.monotonic() - self.sent_at) * 1000


@contextmanager
def provider_call(
    metrics: Metrics, *, provider: str, endpoint: str, model: str | None = None
) -> Iterator[ProviderCall]:
    """The call lasts as long as the block.

    Args:
        provider: its id in the catalog.
        endpoint: what metrics call it, whatever the provider's kind.
        model: the catalog's id.
    """
    attributes: dict[str, AttributeValue] = {"mini_chat.provider": provider, "mini_chat.endpoint": endpoint}
    if model is not None:
        attributes["mini_chat.model"] = model
    with span(f"provider {endpoint}", kind=SpanKind.CLIENT, attributes=attributes) as current:
        yield ProviderCall(metrics, current, provider=provider, endpoint=endpoint)

"""What summaries of conversations and of documents have in common: which model writes them, and asking it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from shared.metrics import Metrics
from shared.model_catalog.catalog import Catalog, CatalogModel
from worker.providers.base import Completion, GenerationRequest, ProviderError
from worker.providers.registry import ProviderRegistry

ENDPOINT: Final = "responses"
"""What metrics call a generation that is not streamed, whatever the provider's kind."""


def models_for(catalog: Catalog, *, wanted: str, chat_model: str) -> Iterator[CatalogModel]:
    """The enabled models that may write a summary of a chat, the first choice first.

    Args:
        wanted: the configured one; empty for none.
    """
    for model_id in (wanted, chat_model):
        model = catalog.find_model(model_id)
        if model is not None and model.enabled:
            yield model
    selected = catalog.find_model(chat_model)
    for standing_in in (catalog.default_of(selected.tier) if selected is not None else None, catalog.default_model()):
        if standing_in is not None:
            yield standing_in


async def ask(generation: GenerationRequest, *, providers: ProviderRegistry, metrics: Metrics) -> Completion:
    """The whole answer.

    Raises:
        ProviderError: there is none.
    """
    provider_id = generation.model.provider_id
    labels = {"provider": provider_id, "endpoint": ENDPOINT}
    provider = providers.get(provider_id, generation.tenant_id)
    began = time.monotonic()
    try:
        completion = await provider.complete(generation, on_requested=metrics.provider_requests.labels(**labels).inc)
    except ProviderError as error:
        metrics.provider_errors.labels(provider=provider_id, status=error.failure.status_label).inc()
        raise
    metrics.provider_latency_ms.labels(**labels).observe((time.monotonic() - began) * 1000)
    return completion

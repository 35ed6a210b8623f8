"""What summaries of conversations and of documents have in common: which model writes them, and asking it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from shared.metrics import Metrics
from shared.model_catalog.catalog import Catalog, CatalogModel
from shared.providers.calls import provider_call
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
    model = generation.model
    provider = providers.get(model.provider_id, generation.tenant_id)
    with provider_call(metrics, provider=model.provider_id, endpoint=ENDPOINT, model=model.id) as call:
        try:
            completion = await provider.complete(generation, on_requested=call.send)
        except ProviderError as error:
            call.fail(error.failure)
            raise
        call.answer()
    return completion

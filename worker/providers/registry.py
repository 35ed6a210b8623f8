"""Which provider serves a catalog entry for a tenant. `kind` picks the dialect, everything else is configuration."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

from shared.metrics import Metrics
from shared.model_catalog.catalog import ProviderConfig, ProviderKind
from shared.providers.client import ProviderClient, ProviderClients
from worker.providers import openai_chat_completions, openai_responses, vllm_responses
from worker.providers.base import Provider
from worker.providers.http_stream import Dialect, HttpProvider

DIALECTS: Mapping[ProviderKind, Dialect] = {
    "openai_responses": Dialect(
        openai_responses.build_body, openai_responses.ResponsesTranslator, openai_responses.read_answer
    ),
    "openai_chat_completions": Dialect(
        openai_chat_completions.build_body,
        openai_chat_completions.ChatCompletionsTranslator,
        openai_chat_completions.read_answer,
    ),
    "vllm_responses": Dialect(vllm_responses.build_body, vllm_responses.VllmTranslator, vllm_responses.read_answer),
}


class ProviderRegistry:
    """The providers of a process, which generate over connections that are not its own."""

    def __init__(self, clients: ProviderClients, metrics: Metrics) -> None:
        self._clients = clients
        self._metrics = metrics
        self._providers: dict[ProviderClient, HttpProvider] = {}

    def get(self, provider_id: str, tenant_id: UUID, otherwise: ProviderConfig | None = None) -> Provider:
        """The provider as `tenant_id` reaches it; the same object each time, shared by tenants without an override.

        Args:
            otherwise: how it is reached if the catalog of this process does not know it.
        """
        client = self._clients.get(provider_id, tenant_id, otherwise)
        if client not in self._providers:
            self._providers[client] = HttpProvider(
                client,
                DIALECTS[client.config.kind],
                on_retry=self._metrics.provider_retries.labels(provider_id, "rate_limited").inc,
            )
        return self._providers[client]

    async def aclose(self) -> None:
        """Stop draining. To be called before the clients are closed."""
        for provider in self._providers.values():
            await provider.aclose()
        self._providers.clear()

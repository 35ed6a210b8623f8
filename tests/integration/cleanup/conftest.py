from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from shared.db.engine import Sessions, open_database
from shared.metrics import Metrics
from shared.model_catalog.catalog import Catalog
from shared.providers.client import ProviderClients
from shared.providers.storage import ProviderStorages
from shared.settings import DatabaseSettings
from tests.integration.cleanup.scene import Scene
from tests.support.catalogs import acceptance_catalog
from tests.support.storage_provider import storage_provider


@pytest.fixture
async def sessions(database_url: str) -> AsyncIterator[Sessions]:
    settings = DatabaseSettings.model_validate({"url": database_url, "pool_size": 20})
    async with open_database(settings) as (_, sessions):
        yield sessions


@pytest.fixture
async def scene(
    request: pytest.FixtureRequest, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Scene]:
    """Nothing yet, at a provider of OpenAI's style unless the parameter names another backend."""
    backend = getattr(request, "param", "openai")
    monkeypatch.setattr("worker.cleanup.removal.QUICK_RETRY_SECS", (0.001, 0.002))
    metrics = Metrics("test")
    async with storage_provider() as provider:
        clients = ProviderClients(Catalog.model_validate(acceptance_catalog(provider_port=provider.port)).providers)
        try:
            yield Scene(sessions, provider, ProviderStorages(clients, metrics), backend, metrics)
        finally:
            await clients.aclose()

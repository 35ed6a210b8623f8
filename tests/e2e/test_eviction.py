"""A server that throws keys away when its memory is full is warned of by every process that starts on it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from shared.settings import RedisSettings
from shared.valkey.client import Valkey, open_valkey
from tests.support.deployment import deployment
from tests.support.waiting import wait_until

WARNING = "maxmemory-policy is allkeys-lru, set noeviction"


@pytest.fixture
async def server(spare_valkey_url: str) -> AsyncIterator[Valkey]:
    async with open_valkey(RedisSettings.model_validate({"url": spare_valkey_url})) as valkey:
        yield valkey
        await valkey.config_set("maxmemory-policy", "noeviction")


async def test_a_server_that_may_evict_is_warned_of(database_url: str, spare_valkey_url: str, server: Valkey) -> None:
    await server.config_set("maxmemory-policy", "allkeys-lru")
    with deployment(database_url=database_url, valkey_url=spare_valkey_url, apis=1, workers=1) as product:
        for process in (*product.apis, *product.workers):
            await wait_until(lambda process=process: WARNING in process.log)  # type: ignore[misc]

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from shared.events.log import EventLog
from shared.ids import new_uuid4
from shared.settings import RedisSettings, Settings
from shared.valkey.client import Valkey, open_valkey
from shared.valkey.keyspace import TurnKeys


@pytest.fixture
async def valkey(valkey_url: str) -> AsyncIterator[Valkey]:
    async with open_valkey(RedisSettings.model_validate({"url": valkey_url})) as client:
        yield client


@pytest.fixture
def log(valkey: Valkey) -> EventLog:
    return EventLog(valkey, Settings())


@pytest.fixture
def keys() -> TurnKeys:
    """The keys of a turn that no other test knows."""
    return TurnKeys(new_uuid4(), new_uuid4())

"""What a process says at its start about a server that may throw its keys away."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from shared.settings import RedisSettings
from shared.valkey.client import Valkey, open_valkey
from shared.valkey.eviction import warn_of_eviction

SEEN = "Valkey may throw away jobs and event logs"


@pytest.fixture
async def valkey(valkey_url: str) -> AsyncIterator[Valkey]:
    async with open_valkey(RedisSettings.model_validate({"url": valkey_url})) as valkey:
        yield valkey


@asynccontextmanager
async def evicting(valkey: Valkey, policy: str) -> AsyncIterator[None]:
    await valkey.config_set("maxmemory-policy", policy)
    try:
        yield
    finally:
        await valkey.config_set("maxmemory-policy", "noeviction")


@pytest.mark.parametrize(
    ("policy", "warnings"),
    [
        ("noeviction", []),
        (
            "volatile-ttl",
            ["Valkey may throw away jobs and event logs: maxmemory-policy is volatile-ttl, set noeviction"],
        ),
    ],
)
async def test_a_server_that_may_evict_is_warned_of(
    valkey: Valkey, caplog: pytest.LogCaptureFixture, policy: str, warnings: list[str]
) -> None:
    async with evicting(valkey, policy):
        await warn_of_eviction(valkey)
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == warnings


async def test_a_server_that_does_not_say_is_asked_once(
    valkey: Valkey, valkey_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Managed ones keep some commands to themselves."""
    await valkey.execute_command("ACL", "SETUSER", "guest", "on", ">guest", "+@all", "-info", "~*", "&*")
    url = valkey_url.partition("@")[2]
    async with open_valkey(RedisSettings.model_validate({"url": f"redis://guest:guest@{url}"})) as guest:
        await warn_of_eviction(guest)
    await valkey.execute_command("ACL", "DELUSER", "guest")
    assert "whether Valkey evicts is unknown" in caplog.text

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from shared.db.engine import Sessions, open_database
from shared.embedded.valkey import EmbeddedValkey
from shared.settings import Settings
from tests.support.api import api_settings
from tests.support.catalogs import acceptance_catalog, write_catalog
from tests.support.commands import Outcome, mini_chat, variables_of
from tests.support.engines import temporary_data_dir
from tests.support.tokens import SECRET


class Provider:
    """A provider that says to the list of models what a test wants."""

    def __init__(self) -> None:
        self.status = 200
        self.wanted_key: str | None = None
        self.requests: list[str] = []
        self.port = 0

    async def answer(self, request: web.Request) -> web.Response:
        self.requests.append(f"{request.method} {request.path_qs}")
        if self.wanted_key is not None and request.headers.get("Authorization") != f"Bearer {self.wanted_key}":
            return web.json_response({"error": {"message": "Incorrect API key provided: sk-s3cr3t"}}, status=401)
        return web.json_response({"object": "list", "data": []}, status=self.status)


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    provider = Provider()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", provider.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        provider.port = runner.addresses[0][1]
        yield provider
    finally:
        await runner.cleanup()


@pytest.fixture(scope="module")
def valkey_url() -> Iterator[str]:
    """A server of our own: it is configured as it should not be, and no worker of other tests listens there."""
    with temporary_data_dir() as data_dir:
        valkey = EmbeddedValkey(data_dir, persistence=False)
        valkey.start()
        try:
            yield valkey.url
        finally:
            valkey.kill()


@pytest.fixture
def settings(database_url: str, valkey_url: str) -> Settings:
    return api_settings(database_url=database_url, valkey_url=valkey_url)


@pytest.fixture
async def sessions(settings: Settings) -> AsyncIterator[Sessions]:
    async with open_database(settings.database) as (_, sessions):
        yield sessions


@dataclass(frozen=True)
class Doctor:
    """The command, on the servers of the test."""

    settings: Settings
    catalog: dict[str, Any]
    folder: Path

    async def run(self, *arguments: str, **variables: str) -> Outcome:
        given = variables_of(
            self.settings,
            AUTH__JWT__ALGORITHMS='["HS256"]',
            AUTH__JWT__KEY=SECRET,
            ALLOW_HTTP_PROVIDERS="true",
            CATALOG__PATH=str(write_catalog(self.catalog, self.folder)),
        )
        return await mini_chat("doctor", *arguments, variables=given | variables)

    async def findings(self, *arguments: str, **variables: str) -> dict[str, dict[str, str]]:
        """What it finds, by the name of the check."""
        outcome = await self.run(*arguments, "--json", **variables)
        assert outcome.err == ""
        return {finding["check"]: finding for finding in outcome.json["findings"]}


@pytest.fixture
def doctor(settings: Settings, provider: Provider, tmp_path: Path) -> Doctor:
    return Doctor(settings, acceptance_catalog(provider_port=provider.port), tmp_path)

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import httpx
import pytest
from sqlalchemy import select

from api.demo_provider.main import serving
from shared.attachments.tables import Attachment
from shared.outbox.tables import OutboxMessage
from tests.support.api import RunningApi, api_settings, running_api
from tests.support.catalogs import STANDARD, acceptance_catalog, write_catalog
from tests.support.tokens import Caller
from tests.support.turns import create_chat

TIMEOUTS = {"connect": 5, "first_event": 5, "idle": 5, "total": 5}


@dataclass(frozen=True)
class Provider:
    """The scripted provider, in the test's own process."""

    url: str
    session: aiohttp.ClientSession

    async def queue(self, *scripts: Mapping[str, Any]) -> None:
        async with self.session.post("/_control/scripts", json=scripts) as answer:
            assert answer.status == 200, await answer.text()

    async def files(self) -> list[dict[str, Any]]:
        async with self.session.get("/_control/storage") as answer:
            files: list[dict[str, Any]] = (await answer.json())["files"]
            return files

    async def requests(self, path: str) -> list[dict[str, Any]]:
        async with self.session.get("/_control/requests") as answer:
            return [request for request in await answer.json() if path in request["path"]]


@dataclass(frozen=True)
class Place:
    """Where a test uploads to: the API, its provider, and a user with a chat."""

    api: RunningApi
    provider: Provider
    user: Caller
    client: httpx.AsyncClient
    chat_id: str

    async def rows(self) -> list[Attachment]:
        """The attachments of all chats, oldest first."""
        async with self.api.context.sessions() as session:
            return list(await session.scalars(select(Attachment).order_by(Attachment.id)))

    async def row(self) -> Attachment:
        (row,) = await self.rows()
        return row

    async def messages(self, queue: str) -> list[dict[str, Any]]:
        """What waits in an outbox queue."""
        async with self.api.context.sessions() as session:
            statement = select(OutboxMessage.payload).where(OutboxMessage.queue == queue).order_by(OutboxMessage.id)
            return list(await session.scalars(statement))

    def metric(self, name: str, **labels: str) -> float:
        return self.api.context.metrics.registry.get_sample_value(f"mini_chat_{name}", labels) or 0


OpenPlace = Callable[..., AbstractAsyncContextManager[Place]]


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    async with (
        serving(host="127.0.0.1", port=0) as url,
        aiohttp.ClientSession(url, timeout=aiohttp.ClientTimeout(total=10)) as session,
    ):
        yield Provider(url, session)


@pytest.fixture
def open_place(database_url: str, valkey_url: str, tmp_path: Path, provider: Provider) -> OpenPlace:
    """Opens a place under other settings or another catalog than those of `place`."""

    @asynccontextmanager
    async def open_one(
        *,
        change_catalog: Callable[[dict[str, Any]], object] = lambda _: None,
        model: str = STANDARD,
        timeouts: Mapping[str, float] = TIMEOUTS,
        **changes: Any,
    ) -> AsyncIterator[Place]:
        tree = acceptance_catalog(provider_port=urlsplit(provider.url).port or 0)
        for entry in tree["providers"].values():
            entry["timeouts"] = dict(timeouts)
        change_catalog(tree)
        path = write_catalog(tree, tmp_path)
        settings = api_settings(
            database_url=database_url, valkey_url=valkey_url, catalog={"path": path, "reload_secs": 0}, **changes
        )
        user = Caller()
        async with running_api(settings) as api, api.client(user) as client:
            yield Place(api, provider, user, client, await create_chat(client, model=model))

    return open_one


@pytest.fixture
async def place(open_place: OpenPlace) -> AsyncIterator[Place]:
    async with open_place() as place:
        yield place

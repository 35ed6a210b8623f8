"""The scripted provider as a place of files: make its calls fail, see what it holds and what it was asked."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from api.demo_provider.main import serving


@dataclass(frozen=True)
class StorageProvider:
    url: str
    session: aiohttp.ClientSession

    @property
    def port(self) -> int:
        port = urlsplit(self.url).port
        assert port is not None
        return port

    async def script(self, call: str, **members: Any) -> None:
        """How `call` is answered, the next time unless `times` says more (None: for ever)."""
        async with self.session.post("/_control/scripts", json=[{"storage": call, **members}]) as response:
            assert response.status == 200, await response.text()

    async def recover(self) -> None:
        """Forget all scripts."""
        async with self.session.delete("/_control/scripts") as response:
            assert response.status == 204

    async def held(self) -> tuple[set[str], set[str]]:
        """The ids of the files and of the vector stores."""
        async with self.session.get("/_control/storage") as response:
            storage = await response.json()
        return {file["id"] for file in storage["files"]}, {store["id"] for store in storage["vector_stores"]}

    async def deletions(self) -> list[str]:
        """What it was asked to delete, oldest first: paths without their roots."""
        async with self.session.get("/_control/requests") as response:
            requests = await response.json()
        paths = [request["path"].partition("?")[0] for request in requests if request["method"] == "DELETE"]
        return [path.removeprefix("/v1").removeprefix("/openai") for path in paths]


@asynccontextmanager
async def storage_provider() -> AsyncIterator[StorageProvider]:
    async with (
        serving(host="127.0.0.1", port=0) as url,
        aiohttp.ClientSession(url, timeout=aiohttp.ClientTimeout(total=10)) as session,
    ):
        yield StorageProvider(url, session)

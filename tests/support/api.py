"""The API in the test's own process, with the real engines behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from fastapi import FastAPI

from api.context import ApiContext
from api.main import create_app
from shared.clock import Clock
from shared.settings import Settings
from tests.support.tokens import SECRET, Caller
from tests.support.waiting import wait_until

BASE = "/mini-chat/v1"


@dataclass(frozen=True)
class RunningApi:
    """An application within its lifespan, and what it holds."""

    app: FastAPI
    context: ApiContext

    def client(self, caller: Caller | None = None, *, base_path: str = BASE) -> httpx.AsyncClient:
        """A client whose paths are relative to the base path, with the token of `caller` if there is one."""
        return httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app),
            base_url=f"http://localhost{base_path}",
            headers=caller.headers if caller else {},
        )


@asynccontextmanager
async def running_api(
    settings: Settings, *, has_valkey: bool = True, clock: Clock | None = None
) -> AsyncIterator[RunningApi]:
    """The API of `settings`, once its live feed is connected; without Valkey that is not waited for."""
    app = create_app(settings, clock=clock)
    async with app.router.lifespan_context(app):
        if has_valkey:
            await wait_until(lambda: app.state.context.live.is_connected)
        yield RunningApi(app, app.state.context)


def api_settings(*, database_url: str, valkey_url: str, **changes: Any) -> Settings:
    """Settings that check tokens of `tests.support.tokens`, without a metrics port."""
    values: dict[str, Any] = {
        "auth": {"mode": "jwt", "jwt": {"algorithms": ["HS256"], "key": SECRET}},
        "database": {"url": database_url, "pool_size": 5},
        "redis": {"url": valkey_url},
        "metrics": {"api_port": 0, "worker_port": 0},
        "allow_http_providers": True,
    } | changes
    return Settings(**values)

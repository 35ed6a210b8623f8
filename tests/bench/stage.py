"""What benches of whole turns stand on: engines, processes of the product, a fast provider, rows put there by SQL."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg
import psutil

from shared.db.migrate import migrate
from shared.settings import DatabaseSettings, Settings
from tests.bench.relay_targets import Helper
from tests.support.api import BASE
from tests.support.catalogs import acceptance_catalog
from tests.support.deployment import Deployment, Process, deployment
from tests.support.engines import TestEngines
from tests.support.tokens import Caller

MODEL = "gpt-5.2"


@dataclass(frozen=True)
class Stage:
    """The product with `caller` as its user; the provider plays `@script {"tokens": n, "rate": n}`."""

    product: Deployment
    engines: TestEngines
    database: asyncpg.Connection
    turns: Helper
    caller: Caller

    @property
    def headers(self) -> str:
        return f"Authorization: {self.caller.headers['Authorization']}\r\n"

    async def run_turns(self, chats: list[UUID], *, content: str, rate: float, api: int = 0) -> dict[str, Any]:
        """One turn in each chat, `rate` a second."""
        paths = [f"{BASE}/chats/{chat_id}/messages:stream" for chat_id in chats]
        port = self.product.apis[api].port
        return await self.turns.ask("run", port=port, headers=self.headers, paths=paths, content=content, rate=rate)

    async def make_chats(self, count: int, *, user: UUID | None = None) -> list[UUID]:
        rows = await self.database.fetch(
            "INSERT INTO chats (id, tenant_id, user_id, model, created_at, updated_at)"
            " SELECT gen_random_uuid(), $1, $2, $3, now(), now() FROM generate_series(1, $4) RETURNING id",
            self.caller.tenant_id,
            user or self.caller.user_id,
            MODEL,
            count,
        )
        return [row["id"] for row in rows]


def script(*, tokens: int, rate: float) -> str:
    return f'@script {{"tokens": {tokens}, "rate": {rate}}}'


def cpu_secs(process: Process) -> float:
    times = psutil.Process(process.popen.pid).cpu_times()
    return float(times.user + times.system)


@asynccontextmanager
async def stage(*, apis: int, workers: int, **variables: str) -> AsyncIterator[Stage]:
    """Start everything for the length of the block."""
    async with AsyncExitStack() as stack:
        engines = stack.enter_context(TestEngines())
        settings = Settings(database=DatabaseSettings.model_validate({"url": engines.database_url}))
        await asyncio.to_thread(migrate, settings)
        product = stack.enter_context(
            deployment(
                database_url=engines.database_url,
                valkey_url=engines.redis_url,
                apis=apis,
                workers=workers,
                provider_timeouts=None,
                make_catalog=acceptance_catalog,
                with_metrics=False,
                **variables,
            )
        )
        _replace_provider(product, stack)
        database = await asyncpg.connect(engines.database_url)
        stack.push_async_callback(database.close)
        turns = Helper("tests.bench.turn_client")
        stack.callback(turns.stop)
        yield Stage(product, engines, database, turns, Caller())


def _replace_provider(product: Deployment, stack: AsyncExitStack) -> None:
    """Put the fast provider where the scripted one was."""
    product.provider.kill()
    port = product.provider.port
    popen = subprocess.Popen([sys.executable, "-m", "tests.bench.fast_provider", str(port)])
    stack.callback(popen.wait)
    stack.callback(popen.kill)
    product.provider = Process("demo-provider", popen, product.provider.log_path, port)
    product.wait_until_ready(product.provider)

"""Whether a process can do its work: the answers behind `/healthz` and `/readyz` of API and worker alike.

A usage event that could not be delivered makes a process `degraded`, at once and until somebody has replayed or
resolved it, and so does a catalog file that was changed and is refused: somebody has to look, but there is no reason to
take the process out of service.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from sqlalchemy import text

from shared.db.engine import Sessions
from shared.db.migrate import is_current
from shared.model_catalog.holder import CatalogHolder
from shared.outbox.dead_letters import DeadLetters
from shared.valkey.client import Valkey

CHECK_TIMEOUT_SECS: Final = 2.0

Outcome = Literal["ok", "degraded", "failed"]
Check = Callable[[], Awaitable[bool]]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Readiness:
    """What each check found, by name."""

    checks: Mapping[str, Outcome]

    @property
    def is_ready(self) -> bool:
        return "failed" not in self.checks.values()

    @property
    def status(self) -> Literal["ok", "degraded", "unavailable"]:
        if not self.is_ready:
            return "unavailable"
        return "degraded" if "degraded" in self.checks.values() else "ok"

    @property
    def document(self) -> dict[str, object]:
        return {"status": self.status, "checks": dict(self.checks)}


@dataclass(frozen=True, slots=True)
class ReadinessProbe:
    sessions: Sessions
    valkey: Valkey
    catalog: CatalogHolder
    draining: asyncio.Event

    async def run(self) -> Readiness:
        """Ask everything at once; a check that takes longer than `CHECK_TIMEOUT_SECS` has failed."""
        checks: dict[str, Check] = {
            "postgresql": self._database_answers,
            "migrations": self._schema_is_current,
            "redis": self._redis_answers,
            "catalog": self._catalog_is_in_force,
            "accepting": self._accepts_work,
        }
        outcomes, usage = await asyncio.gather(
            asyncio.gather(*(_outcome(name, check) for name, check in checks.items())),
            _outcome("usage_delivery", self._usage_is_delivered),
        )
        found: dict[str, Outcome] = dict(zip(checks, outcomes, strict=True))
        if found["catalog"] == "ok" and self.catalog.is_file_refused:
            found["catalog"] = "degraded"
        # Without an answer nothing is known; that PostgreSQL does not answer is another check's finding.
        return Readiness({**found, "usage_delivery": "ok" if usage == "ok" else "degraded"})

    async def _database_answers(self) -> bool:
        async with self.sessions() as session:
            return bool(await session.scalar(text("SELECT 1")) == 1)

    async def _schema_is_current(self) -> bool:
        async with self.sessions() as session:
            return await is_current(session)

    async def _redis_answers(self) -> bool:
        return bool(await self.valkey.ping())

    async def _catalog_is_in_force(self) -> bool:
        return self.catalog.is_stored

    async def _usage_is_delivered(self) -> bool:
        async with self.sessions() as session:
            return not await DeadLetters(session).has_open_usage()

    async def _accepts_work(self) -> bool:
        return not self.draining.is_set()


async def _outcome(name: str, check: Check) -> Outcome:
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_SECS):
            return "ok" if await check() else "failed"
    except Exception as error:
        _log.warning("readiness check %s failed: %s", name, type(error).__name__)
        return "failed"

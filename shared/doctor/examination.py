"""All checks, in the order in which one thing rests on another."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from sqlalchemy import DateTime, func, select

from shared.clock import Clock
from shared.db.command import DATABASE_FAILURE, reason_of
from shared.db.engine import open_database
from shared.doctor.clocks import check_clock
from shared.doctor.deployment import check_deployment
from shared.doctor.findings import Finding, fail, ok, warn
from shared.doctor.policy import check_policy
from shared.doctor.postgres import check_postgres
from shared.doctor.providers import check_providers
from shared.doctor.redis_server import check_redis
from shared.doctor.work import check_work, check_workers
from shared.model_catalog.catalog import Catalog
from shared.model_catalog.source import load_catalog
from shared.settings import ConfigurationError, Settings
from shared.valkey.client import REDIS_FAILURE, open_valkey

PING_JITTER_SECS: Final = 2
"""How much later than `streaming.sse_ping_interval_seconds` a stream may break its silence."""

_NOW: Final = select(func.clock_timestamp(type_=DateTime(timezone=True)))


@dataclass(frozen=True)
class Examination:
    settings: Settings
    clock: Clock
    url: str | None
    token: str | None
    silence_secs: int | None

    async def run(self) -> AsyncIterator[Finding]:
        """Findings as they are made."""
        yield self._check_auth()
        catalog = None
        try:
            catalog = load_catalog(self.settings)
        except ConfigurationError as error:
            yield fail("catalog", str(error), "correct the catalog, or set what it refers to")
        if catalog is not None:
            yield _describe(catalog)
            for finding in await check_providers(catalog):
                yield finding
        async for finding in self._check_database(catalog):
            yield finding
        async for finding in self._check_valkey():
            yield finding
        if self.url is not None:
            silence = self.silence_secs
            if silence is None:
                silence = self.settings.streaming.sse_ping_interval_seconds + PING_JITTER_SECS
            async for finding in check_deployment(
                self.url, self.settings, self.clock, token=self.token, silence_secs=silence
            ):
                yield finding

    def _check_auth(self) -> Finding:
        auth = self.settings.auth
        if auth.mode == "dev":
            return warn("auth", "mode dev: every caller is the same user", "set auth.mode jwt, except to develop")
        if auth.jwt.key is None and auth.jwt.jwks_url is None:
            return fail(
                "auth",
                "there is no key to check tokens with",
                "set auth.jwt.jwks_url or auth.jwt.key (`mini-chat run` sets auth.mode dev instead)",
            )
        unchecked = [name for name in ("issuer", "audience") if getattr(auth.jwt, name) is None]
        if unchecked:
            seen = f"{' and '.join(unchecked)} of tokens are not checked"
            return warn("auth", seen, f"set {' and '.join(f'auth.jwt.{name}' for name in unchecked)}")
        return ok("auth", f"tokens by {', '.join(auth.jwt.algorithms)}")

    async def _check_database(self, catalog: Catalog | None) -> AsyncIterator[Finding]:
        if self.settings.database.url is None:
            yield fail("postgresql", "database.url is not set", "set MINI_CHAT_DATABASE__URL")
            return
        try:
            async with open_database(self.settings.database) as (_, sessions), sessions() as session:
                await session.connection()  # connecting is no matter of clocks
                asked_at = self.clock.now()
                theirs = (await session.execute(_NOW)).scalar_one()
                yield check_clock("postgresql", theirs, asked_at=asked_at, answered_at=self.clock.now())
                is_migrated = True
                async for finding in check_postgres(session, self.settings):
                    is_migrated = is_migrated and not (finding.check == "migrations" and finding.status == "fail")
                    yield finding
                if is_migrated:
                    if catalog is not None:
                        yield await check_policy(session, catalog)
                    async for finding in check_work(session, self.settings):
                        yield finding
        except DATABASE_FAILURE as error:
            yield fail("postgresql", f"cannot be used: {reason_of(error)}", "check database.url, and whether it runs")

    async def _check_valkey(self) -> AsyncIterator[Finding]:
        if self.settings.redis.url is None:
            yield fail("redis", "redis.url is not set", "set MINI_CHAT_REDIS__URL")
            return
        try:
            async with open_valkey(self.settings.redis) as valkey:
                info = await valkey.info()
                asked_at = self.clock.now()
                seconds, microseconds = await valkey.time()
                theirs = datetime.fromtimestamp(seconds + microseconds / 1e6, UTC)
                yield check_clock("redis", theirs, asked_at=asked_at, answered_at=self.clock.now())
                for finding in check_redis(info):
                    yield finding
                yield await check_workers(valkey)
        except REDIS_FAILURE as error:
            yield fail("redis", f"cannot be used: {reason_of(error)}", "check redis.url, and whether it runs")


def _describe(catalog: Catalog) -> Finding:
    enabled = len(list(catalog.enabled_models()))
    seen = f"policy version {catalog.policy_version}, {enabled} of {len(catalog.model_catalog)} models enabled"
    switches = [name for name, is_on in catalog.kill_switches if is_on]
    if switches:
        return warn("catalog", f"{seen}; {', '.join(switches)}", "switch them off once what they are for is over")
    return ok("catalog", seen)

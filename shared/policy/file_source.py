"""Policies from the catalog file, reloaded while the process runs.

A catalog is put in force only after its snapshot is stored, so that whoever meets its version later finds it. A
reload is refused, and the catalog in force stays, if the file is invalid, its version is lower than the one in force,
or its version is stored with another content. While the database is away at the start, the process runs without a
catalog in force: it is not ready and accepts nothing, and tries again every second.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, Literal
from uuid import UUID

from shared.clock import Clock
from shared.db.engine import Sessions
from shared.model_catalog.catalog import Catalog
from shared.model_catalog.holder import CatalogHolder
from shared.model_catalog.source import load_catalog
from shared.policy.caching import Cache
from shared.policy.limits import limits_of
from shared.policy.snapshots import load_snapshot, store_snapshot
from shared.policy.source import Limits
from shared.settings import ConfigurationError, Settings

SNAPSHOTS_KEPT: Final = 16
LIMITS_KEPT: Final = 10_000
LIMITS_TTL: Final = timedelta(seconds=60)
STORE_RETRY_SECS: Final = 1.0

Reloaded = Literal["changed", "unchanged", "refused", "failed"]

logger = logging.getLogger(__name__)


class FilePolicySource:
    def __init__(
        self,
        settings: Settings,
        catalog: CatalogHolder,
        *,
        sessions: Sessions,
        clock: Clock,
        on_change: Callable[[Catalog], None] = lambda _: None,
    ) -> None:
        """
        Args:
            catalog: holds the file as it was read at the start; nothing in it is in force yet.
            on_change: is told of each catalog that a reload has put in force.
        """
        self._settings = settings
        self._catalog = catalog
        self._sessions = sessions
        self._clock = clock
        self._on_change = on_change
        self._snapshots: Cache[int, Catalog] = Cache(capacity=SNAPSHOTS_KEPT, clock=clock)
        self._limits: Cache[tuple[UUID, UUID, int], Limits] = Cache(capacity=LIMITS_KEPT, clock=clock, ttl=LIMITS_TTL)
        self._lock = asyncio.Lock()
        self._is_asked = asyncio.Event()
        self._taken_text: bytes | None = None

    def current_version(self, tenant_id: UUID, user_id: UUID) -> int:  # noqa: ARG002 (one file for all)
        return self._catalog.current.policy_version

    async def snapshot(self, version: int) -> Catalog:
        if self._catalog.is_stored and version == self._catalog.current.policy_version:
            return self._catalog.current
        snapshot = self._snapshots.get(version)
        if snapshot is None:
            snapshot = await load_snapshot(self._sessions, version)
            self._snapshots.put(version, snapshot)
        return snapshot

    async def limits(self, tenant_id: UUID, user_id: UUID, version: int) -> Limits:
        key = (tenant_id, user_id, version)
        limits = self._limits.get(key)
        if limits is None:
            limits = limits_of(await self.snapshot(version), tenant_id=tenant_id, user_id=user_id)
            self._limits.put(key, limits)
        return limits

    async def publish_usage(self, event: Mapping[str, Any]) -> None:
        """A file has nobody to tell: the log is where usage ends."""
        logger.info("usage", extra={"event": dict(event)})

    async def start(self) -> None:
        """Put the catalog in force, unless the database is away.

        Raises:
            ConfigurationError: its version is stored with another content.
        """
        try:
            await self._put_in_force(self._catalog.loaded)
        except ConfigurationError:
            raise
        except Exception as error:
            logger.warning("the policy cannot be stored yet, will try again: %r", error)

    async def keep_current(self) -> None:
        """Reload for ever: every `catalog.reload_secs`, when asked, and soon while nothing is in force."""
        interval = self._settings.catalog.reload_secs or None
        while True:
            pause = interval if self._catalog.is_stored else STORE_RETRY_SECS
            try:
                async with asyncio.timeout(pause):
                    await self._is_asked.wait()
            except TimeoutError:
                await self.reload()
            else:
                self._is_asked.clear()
                await self.reload(force=True)

    def ask_for_reload(self) -> None:
        """Have `keep_current` reload at once, even if the file looks the same; fit for a signal handler."""
        self._is_asked.set()

    async def reload(self, *, force: bool = False) -> Reloaded:
        """Put the file in force as it is now; what is in force stays if that cannot be done."""
        async with self._lock:
            try:
                reloaded = await self._reload(force=force)
            except ConfigurationError as error:
                self._catalog.is_file_refused = True
                logger.error("the catalog is not reloaded: %s", error)  # noqa: TRY400 (a clear text)
                return "refused"
            except Exception as error:
                logger.error("the catalog cannot be reloaded now: %r", error)  # noqa: TRY400 (a server is away)
                return "failed"
            self._catalog.is_file_refused = False
            return reloaded

    async def _reload(self, *, force: bool) -> Reloaded:
        text = await asyncio.to_thread(_read, self._settings.catalog.path)
        if text == self._taken_text and self._catalog.is_stored and not force:
            return "unchanged"
        loaded = await asyncio.to_thread(load_catalog, self._settings)
        is_changed = not self._catalog.is_stored or loaded != self._catalog.loaded
        if is_changed:
            self._check_version(loaded)
            await self._put_in_force(loaded)
            self._on_change(loaded)
            logger.info("the catalog was reloaded", extra={"policy_version": loaded.policy_version})
        self._taken_text = text
        return "changed" if is_changed else "unchanged"

    def _check_version(self, loaded: Catalog) -> None:
        if not self._catalog.is_stored:
            return
        running = self._catalog.current
        if loaded.policy_version < running.policy_version:
            raise ConfigurationError(
                f"{self._name}: policy_version: {loaded.policy_version} is lower than {running.policy_version},"
                " which is in force"
            )

    async def _put_in_force(self, catalog: Catalog) -> None:
        try:
            await store_snapshot(self._sessions, catalog, now=self._clock.now())
        except ConfigurationError as error:
            raise ConfigurationError(f"{self._name}: {error}") from None
        self._catalog.put_in_force(catalog)
        self._snapshots.put(catalog.policy_version, catalog)

    @property
    def _name(self) -> str:
        path = self._settings.catalog.path
        return "the built-in catalog" if path is None else str(path)


def _read(path: Path | None) -> bytes | None:
    """The file as it is now; None for the built-in one, which never changes."""
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror or error}") from None

"""Where policies come from: an interface, so that a billing service can stand in for the catalog file.

A policy is a catalog under a version: models, prices, kill switches and limits. A version never changes its content:
a turn is accepted under the current one, stores its number, and settles by that number for ever.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol
from uuid import UUID

from shared.model_catalog.catalog import Catalog
from shared.quotas.buckets import BucketKey

Limits = Mapping[BucketKey, int]
"""Micro-credits by bucket and period, all four of them; zero or less allows nothing."""


class PolicySnapshots(Protocol):
    """What it takes to settle a turn."""

    async def snapshot(self, version: int) -> Catalog:
        """The policy of a turn that was accepted under `version`, however long ago.

        Raises:
            LookupError: there has never been such a version, or this release cannot read it.
            Exception: it is not in memory and the database is away.
        """
        ...


class PolicySource(PolicySnapshots, Protocol):
    """Nothing here waits for a service of others while a turn is accepted or settled."""

    def current_version(self, tenant_id: UUID, user_id: UUID) -> int:
        """The version under which a turn of this user is accepted now; its snapshot is stored.

        Raises:
            UnavailableError: no policy has been stored yet.
        """
        ...

    async def limits(self, tenant_id: UUID, user_id: UUID, version: int) -> Limits:
        """What the user may use under `version`. Raises what `snapshot` raises."""
        ...

    async def publish_usage(self, event: Mapping[str, Any]) -> None:
        """Tell the source what a turn has used, once or more often; it raises if the event is to be sent again."""
        ...

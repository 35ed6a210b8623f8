"""A finalizer as processes have it, for tests that end turns by themselves."""

from __future__ import annotations

from typing import Any

from shared.clock import Clock, SystemClock
from shared.db.engine import Sessions
from shared.metrics import Metrics
from shared.model_catalog.catalog import Catalog
from shared.model_catalog.holder import CatalogHolder
from shared.policy.file_source import FilePolicySource
from shared.settings import Settings
from shared.turns.finalize import TurnFinalizer
from tests.support.catalogs import acceptance_catalog


def make_finalizer(
    sessions: Sessions,
    settings: Settings,
    *,
    tree: dict[str, Any] | None = None,
    clock: Clock | None = None,
    metrics: Metrics | None = None,
) -> TurnFinalizer:
    """Under the acceptance catalog unless told, which is in force without being stored."""
    policies = policies_of(catalog_in_force(tree), sessions, settings, clock=clock)
    return TurnFinalizer(sessions, policies, settings, metrics or Metrics("test"))


def policies_of(
    catalog: CatalogHolder,
    sessions: Sessions,
    settings: Settings,
    *,
    clock: Clock | None = None,
) -> FilePolicySource:
    return FilePolicySource(settings, catalog, sessions=sessions, clock=clock or SystemClock())


def catalog_in_force(tree: dict[str, Any] | None = None) -> CatalogHolder:
    """The acceptance catalog unless told, as if it had been stored."""
    catalog = CatalogHolder(Catalog.model_validate(tree or acceptance_catalog()))
    catalog.put_in_force(catalog.loaded)
    return catalog

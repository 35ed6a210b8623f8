"""A finalizer as processes have it, for tests that end turns by themselves."""

from __future__ import annotations

from typing import Any

from shared.db.engine import Sessions
from shared.metrics import Metrics
from shared.model_catalog.catalog import Catalog
from shared.model_catalog.holder import CatalogHolder
from shared.quotas.policies import CurrentPolicy
from shared.settings import Settings
from shared.turns.finalize import TurnFinalizer
from tests.support.catalogs import acceptance_catalog


def make_finalizer(sessions: Sessions, settings: Settings, *, tree: dict[str, Any] | None = None) -> TurnFinalizer:
    """Under the acceptance catalog, unless told."""
    catalog = Catalog.model_validate(tree or acceptance_catalog())
    return TurnFinalizer(sessions, CurrentPolicy(CatalogHolder(catalog)), settings, Metrics("test"))

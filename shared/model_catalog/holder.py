from __future__ import annotations

from dataclasses import dataclass

from shared.model_catalog.catalog import Catalog


@dataclass(slots=True)
class CatalogHolder:
    """The catalog in force. A reload replaces it whole, so read `current` once for one decision."""

    current: Catalog

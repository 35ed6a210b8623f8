"""The catalog of this process. A reload replaces it whole, so read `current` once for one decision."""

from __future__ import annotations

from shared.errors import UnavailableError
from shared.model_catalog.catalog import Catalog


class CatalogHolder:
    """Holds the newest valid catalog, and whether decisions may rest on it: its snapshot must be stored first."""

    def __init__(self, loaded: Catalog) -> None:
        self._loaded = loaded
        self._is_stored = False
        self.is_file_refused = False
        """The file has been changed since, and cannot be put in force as it is."""

    @property
    def is_stored(self) -> bool:
        return self._is_stored

    @property
    def loaded(self) -> Catalog:
        """For those who only show it or dial its providers."""
        return self._loaded

    @property
    def current(self) -> Catalog:
        """
        Raises:
            UnavailableError: it has not been stored since this process began.
        """
        if not self._is_stored:
            raise UnavailableError("The policy is not available yet")
        return self._loaded

    def put_in_force(self, catalog: Catalog) -> None:
        """Use `catalog` from now on; the caller has stored its snapshot."""
        self._loaded = catalog
        self._is_stored = True

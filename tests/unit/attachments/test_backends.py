"""What files and vector stores are labelled with: the column is narrower than a provider's id may be."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from shared.model_catalog.catalog import Catalog
from tests.support.catalogs import acceptance_catalog


def catalog_with(provider_id: str, *, storage_backend: str | None) -> Catalog:
    tree = acceptance_catalog()
    label = {} if storage_backend is None else {"storage_backend": storage_backend}
    tree["providers"][provider_id] = tree["providers"]["openai"] | label
    return Catalog.model_validate(tree)


@pytest.mark.parametrize(("chars", "storage_backend"), [(32, None), (33, "short"), (128, "short")])
def test_a_provider_whose_label_fits_is_taken(chars: int, storage_backend: str | None) -> None:
    assert "p" * chars in catalog_with("p" * chars, storage_backend=storage_backend).providers


@pytest.mark.parametrize(("chars", "storage_backend"), [(33, None), (8, "l" * 33), (129, "short")])
def test_a_provider_whose_label_does_not_fit_stops_the_start(chars: int, storage_backend: str | None) -> None:
    """Otherwise each of its uploads, or each of its turns, would fail at the database."""
    with pytest.raises(ValidationError, match=r"storage_backend|at most 128 characters"):
        catalog_with("p" * chars, storage_backend=storage_backend)

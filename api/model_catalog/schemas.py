from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, Field

from api.schemas import Omittable
from shared.model_catalog.catalog import Capability, CatalogModel, Tier


class Model(BaseModel):
    """What clients may know of a model: nothing of its provider, its price factors or its limits."""

    model_config = ConfigDict(protected_namespaces=())

    model_id: str
    display_name: str
    tier: Tier
    multiplier_display: str
    description: Omittable[str] = None
    multimodal_capabilities: tuple[Capability, ...]
    context_window: int = Field(description="Tokens.")

    @classmethod
    def of(cls, model: CatalogModel) -> Self:
        return cls(
            model_id=model.id,
            display_name=model.display_name,
            tier=model.tier,
            multiplier_display=model.multiplier_display,
            description=model.description or None,
            multimodal_capabilities=model.multimodal_capabilities,
            context_window=model.context_window,
        )


class ModelList(BaseModel):
    items: tuple[Model, ...]

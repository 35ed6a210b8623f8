"""The OpenAPI document, completed by what routes refer to by name."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.encoders import jsonable_encoder
from pydantic.json_schema import models_json_schema

from api.problems import Problem


class DescribedApi(FastAPI):
    def openapi(self) -> dict[str, Any]:
        document = super().openapi()
        _, definitions = models_json_schema(
            [(Problem, "serialization")], ref_template="#/components/schemas/{model}", title="Problem"
        )
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        # A default of null is what an absent member has in Python; in the document it would be a value.
        schemas.update(jsonable_encoder(definitions["$defs"], exclude_none=True))
        return document

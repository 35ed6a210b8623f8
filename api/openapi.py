"""The OpenAPI document, completed by what routes refer to by name."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic.json_schema import models_json_schema

from api.problems import Problem


class DescribedApi(FastAPI):
    def openapi(self) -> dict[str, Any]:
        document = super().openapi()
        _, definitions = models_json_schema(
            [(Problem, "serialization")], ref_template="#/components/schemas/{model}", title="Problem"
        )
        document.setdefault("components", {}).setdefault("schemas", {}).update(definitions["$defs"])
        return document

"""The types that request and response bodies are made of.

Ids are hyphenated UUIDs, taken in any case and written in lower case; timestamps are RFC 3339 UTC with microseconds.
An `Omittable` member is left out of the answer when it is null; a plain `T | None` is written as null.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final, Generic, TypeVar
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, Field, PlainSerializer, WithJsonSchema
from pydantic.json_schema import SkipJsonSchema

from api.odata import parse_uuid
from api.pagination import Page
from shared.clock import rfc3339

T = TypeVar("T")


def _hyphenated(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return parse_uuid(value)
    except ValueError:
        raise ValueError("must be a hyphenated UUID") from None


def _is_none(value: Any) -> bool:
    return value is None


HYPHENATED: Final = BeforeValidator(_hyphenated, json_schema_input_type=UUID)
"""Of the spellings that UUID itself would take, only the canonical one."""

Uuid = Annotated[UUID, HYPHENATED]

Timestamp = Annotated[
    datetime,
    PlainSerializer(rfc3339, when_used="json"),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]

Omittable = Annotated[T | SkipJsonSchema[None], Field(exclude_if=_is_none)]


class PageInfo(BaseModel):
    limit: int
    next_cursor: str | None
    prev_cursor: str | None


class ListAnswer(BaseModel, Generic[T]):
    """A page of a list and the way to its neighbours."""

    items: tuple[T, ...]
    page_info: PageInfo


def page_info(page: Page[Any]) -> PageInfo:
    return PageInfo(limit=page.limit, next_cursor=page.next_cursor, prev_cursor=page.prev_cursor)

"""The query of a list: `limit`, `cursor` and, where a list takes them, `$filter`, `$orderby` and `$select`.

Values arrive as text and are parsed by `api.pagination` and `api.odata`, which say what is wrong with them. An
unknown option with a `$`, and any option given twice, is refused rather than ignored: a client that asks for
something must not believe that it got it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Query, Request
from pydantic import WithJsonSchema
from pydantic.json_schema import SkipJsonSchema

from api.pagination import DEFAULT_LIMIT, MAX_LIMIT
from shared.errors import InvalidError

_Limit = Annotated[
    str | None,
    WithJsonSchema({"type": "integer", "minimum": 1}),
    Query(description=f"Rows per page, {DEFAULT_LIMIT} unless told; more than {MAX_LIMIT} is taken as {MAX_LIMIT}."),
]
_Cursor = Annotated[
    str | SkipJsonSchema[None], Query(description="`next_cursor` or `prev_cursor` of a page of this list.")
]
_Filter = Annotated[str | SkipJsonSchema[None], Query(alias="$filter")]
_OrderBy = Annotated[str | SkipJsonSchema[None], Query(alias="$orderby")]
_Select = Annotated[str | SkipJsonSchema[None], Query(alias="$select")]


@dataclass(frozen=True, slots=True)
class ListQuery:
    """The raw options, each None if absent."""

    limit: str | None = None
    cursor: str | None = None
    filter: str | None = None
    orderby: str | None = None
    select: str | None = None


def _page_query(request: Request, limit: _Limit = None, cursor: _Cursor = None) -> ListQuery:
    _check_options(request, allowed=frozenset())
    return ListQuery(limit, cursor)


def _search_query(
    request: Request,
    limit: _Limit = None,
    cursor: _Cursor = None,
    filter_: _Filter = None,
    orderby: _OrderBy = None,
    select: _Select = None,
) -> ListQuery:
    _check_options(request, allowed=frozenset({"$filter", "$orderby", "$select"}))
    return ListQuery(limit, cursor, filter_, orderby, select)


def _check_options(request: Request, *, allowed: frozenset[str]) -> None:
    names = [name for name, _ in request.query_params.multi_items()]
    for name in names:
        if name.startswith("$") and name not in allowed:
            raise InvalidError("The query has an option that this list does not take")
        if (name in allowed or name in ("limit", "cursor")) and names.count(name) > 1:
            raise InvalidError(f"{name} is given more than once")


PageQuery = Annotated[ListQuery, Depends(_page_query)]
SearchQuery = Annotated[ListQuery, Depends(_search_query)]

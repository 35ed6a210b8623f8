"""Keyset pagination: the `limit` and `cursor` of a list, the SQL of one page, and the cursors of its neighbours.

A cursor is base64url without padding of compact JSON
`{"v":1,"k":[...],"o":"asc|desc","s":"+created_at,+id","f":hash|null,"d":"fwd|bwd"}`: `k` is the ordering key of the
boundary row as strings, `s` the signed order, `o` the direction of its first key, `f` the hash of the filter and `d`
which way to read. It is opaque to clients but not secret, so it is checked like any other input: whatever is not a
cursor of this resource, this filter and this version raises `InvalidError`, and a forged one reaches no row that
the query would not list anyway.

A page reads strictly beyond its boundary and asks for one row more than it shows, which tells whether a further
page exists. Pages stay exact while rows come and go: no row that stays is repeated or skipped.

- The page without a cursor is the first; it has no `prev_cursor`.
- A page with rows that was reached forward has a `prev_cursor`; one reached backward has a `next_cursor`. In the
  direction of travel there is a cursor if and only if the extra row was there.
- An empty page reached by a cursor (its rows are gone) has no cursor onward. Its cursor back starts *at* the
  boundary, not beyond it: the boundary row is on the page the client came from and must not fall between the two.
"""

from __future__ import annotations

import base64
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Final, Generic, Literal, TypeAlias, TypeVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import ColumnElement, Select, and_, literal, or_, true, tuple_

from api.odata import TIE_BREAK, OrderKey, parse_timestamp, parse_uuid, text_of
from shared.errors import InvalidError

DEFAULT_LIMIT: Final = 20
MAX_LIMIT: Final = 100
MAX_CURSOR_LENGTH: Final = 2048

_BASE64URL: Final = re.compile(r"[A-Za-z0-9_-]+")
_SIGNED_FIELD: Final = re.compile(r"([+-])([A-Za-z0-9_]+)")
_MAX_UUID: Final = (1 << 128) - 1

KeyValue: TypeAlias = datetime | UUID
KeyType: TypeAlias = type[datetime] | type[UUID]
Order: TypeAlias = tuple[OrderKey, ...]
Boundary: TypeAlias = tuple[KeyValue, ...]
T = TypeVar("T")
S = TypeVar("S", bound=Select[*tuple[Any, ...]])


class Direction(StrEnum):
    FORWARD = "fwd"
    BACKWARD = "bwd"


@dataclass(frozen=True, slots=True)
class PageRequest:
    """One page to read: at most `limit` rows beyond `boundary`, which has one value per key of `order`."""

    limit: int
    order: Order
    boundary: Boundary | None = None
    direction: Direction = Direction.FORWARD
    filter_hash: str | None = None


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """The rows of a page in the order of the list, whichever way it was read, and the way to its neighbours."""

    items: tuple[T, ...]
    limit: int
    next_cursor: str | None
    prev_cursor: str | None


class _Cursor(BaseModel):
    """The wire form; the order of the members is the order in which they are written."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    v: Annotated[int, Field(ge=1, le=1)]  # not Literal[1], which `true` and `1.0` would match
    k: tuple[str, ...]
    o: Literal["asc", "desc"]
    s: str
    f: str | None
    d: Direction


def page_request(
    *,
    limit: str | None,
    cursor: str | None,
    orderby: Order | None,
    default_order: Order,
    fields: Mapping[str, KeyType],
    filter_hash: str | None,
) -> PageRequest:
    """What the query asks for.

    Args:
        limit: the raw query value.
        cursor: the raw query value; the order then comes from it, so `orderby` must be absent.
        orderby: the parsed `$orderby`, with its tie-break.
        default_order: the order without a cursor and `$orderby`, with its tie-break.
        fields: every field that an order of this resource may name.
        filter_hash: the hash of the `$filter` of this request; a cursor must carry the same.

    Raises:
        InvalidError: a bad limit, a bad cursor, or a cursor that contradicts the rest of the query.
    """
    size = parse_limit(limit)
    if cursor is None:
        return PageRequest(size, orderby or default_order, filter_hash=filter_hash)
    if orderby is not None:
        raise InvalidError("$orderby cannot be combined with a cursor, which fixes the order")
    order, boundary, direction, origin = decode_cursor(cursor, fields=fields)
    if origin != filter_hash:
        raise InvalidError("The cursor belongs to a list with another $filter")
    return PageRequest(size, order, boundary, direction, filter_hash)


def parse_limit(raw: str | None) -> int:
    """The applied page size: the default if absent, at most `MAX_LIMIT`."""
    if raw is None:
        return DEFAULT_LIMIT
    digits = raw.lstrip("0")
    if not (digits.isascii() and digits.isdecimal()):
        raise InvalidError("limit must be an integer of at least 1")
    return min(int(digits[:4]), MAX_LIMIT)  # four digits are past the maximum already; int() refuses thousands


def encode_cursor(order: Order, boundary: Boundary, direction: Direction, filter_hash: str | None) -> str:
    cursor = _Cursor(
        v=1,
        k=tuple(text_of(value) for value in boundary),
        o="desc" if order[0].descending else "asc",
        s=",".join(f"{'-' if key.descending else '+'}{key.field}" for key in order),
        f=filter_hash,
        d=direction,
    )
    return base64.urlsafe_b64encode(cursor.model_dump_json().encode()).rstrip(b"=").decode()


def decode_cursor(text: str, *, fields: Mapping[str, KeyType]) -> tuple[Order, Boundary, Direction, str | None]:
    """The order, boundary, direction and filter hash of a cursor; InvalidError for anything else."""
    try:
        if len(text) > MAX_CURSOR_LENGTH or _BASE64URL.fullmatch(text) is None:
            raise ValueError("not base64url of a cursor's length")
        cursor = _Cursor.model_validate_json(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        order = _parse_order(cursor.s, fields)
        if (cursor.o == "desc") != order[0].descending:
            raise ValueError("the direction contradicts the order")
        boundary = tuple(_parse_key(fields[key.field], value) for key, value in zip(order, cursor.k, strict=True))
    except ValueError as error:  # also of base64, Unicode, JSON and Pydantic
        raise InvalidError("The cursor is invalid") from error
    return order, boundary, cursor.d, cursor.f


def seek_predicate(request: PageRequest, columns: Mapping[str, ColumnElement[Any]]) -> ColumnElement[bool]:
    """True of the rows beyond the boundary. The columns must not be null.

    Keys of one direction become a comparison of row values, a single range of an index over them. Mixed directions
    become the same thing spelled out, behind the range of the first key so that an index still bounds the scan.
    """
    if request.boundary is None:
        return true()
    keys = [
        (columns[key.field], literal(value, columns[key.field].type), _reads_down(key, request))
        for key, value in zip(request.order, request.boundary, strict=True)
    ]
    if len({down for _, _, down in keys}) == 1:
        compare = operator.lt if keys[0][2] else operator.gt
        row = tuple_(*(column for column, _, _ in keys))
        beyond: ColumnElement[bool] = compare(row, tuple_(*(value for _, value, _ in keys)))
        return beyond
    branches = [
        and_(*(before == same for before, same, _ in keys[:depth]), column < value if down else column > value)
        for depth, (column, value, down) in enumerate(keys)
    ]
    column, value, down = keys[0]
    return and_(column <= value if down else column >= value, or_(*branches))


def seek_order(request: PageRequest, columns: Mapping[str, ColumnElement[Any]]) -> tuple[ColumnElement[Any], ...]:
    """The ORDER BY in which the page is read: of the list forward, its reverse backward."""
    return tuple(
        columns[key.field].desc() if _reads_down(key, request) else columns[key.field].asc() for key in request.order
    )


def paginate(statement: S, request: PageRequest, columns: Mapping[str, ColumnElement[Any]]) -> S:
    """`statement` narrowed to the rows that `build_page` wants: those of the page and one more."""
    return (
        statement.where(seek_predicate(request, columns))
        .order_by(*seek_order(request, columns))
        .limit(request.limit + 1)
    )


def build_page(rows: Sequence[T], *, request: PageRequest, key_of: Callable[[T], Mapping[str, KeyValue]]) -> Page[T]:
    """The page made of `rows` as they were read: in the order of `seek_order`, at most `limit + 1`.

    Args:
        key_of: the values of a row for at least the fields of the order, by name.
    """
    shown = rows[: request.limit]
    onward = _key(shown[-1], request, key_of) if len(rows) > request.limit else None
    back = None
    if request.boundary is not None:
        back = _key(shown[0], request, key_of) if shown else _widened(request, request.boundary)
    if request.direction is Direction.BACKWARD:
        shown, onward, back = shown[::-1], back, onward
    return Page(
        items=tuple(shown),
        limit=request.limit,
        next_cursor=_cursor(onward, Direction.FORWARD, request),
        prev_cursor=_cursor(back, Direction.BACKWARD, request),
    )


def _key(row: T, request: PageRequest, key_of: Callable[[T], Mapping[str, KeyValue]]) -> Boundary:
    values = key_of(row)
    return tuple(values[key.field] for key in request.order)


def _cursor(boundary: Boundary | None, direction: Direction, request: PageRequest) -> str | None:
    return None if boundary is None else encode_cursor(request.order, boundary, direction, request.filter_hash)


def _parse_order(signed: str, fields: Mapping[str, KeyType]) -> Order:
    matches = [_SIGNED_FIELD.fullmatch(part) for part in signed.split(",")]
    order = tuple(OrderKey(match[2], descending=match[1] == "-") for match in matches if match is not None)
    names = {key.field for key in order}
    if not len(matches) == len(order) == len(names) or not names <= fields.keys() or TIE_BREAK not in names:
        raise ValueError("not an order of this resource")
    return order


def _parse_key(kind: KeyType, text: str) -> KeyValue:
    return parse_timestamp(text) if issubclass(kind, datetime) else parse_uuid(text)


def _reads_down(key: OrderKey, request: PageRequest) -> bool:
    return key.descending != (request.direction is Direction.BACKWARD)


def _widened(request: PageRequest, boundary: Boundary) -> Boundary:
    """`boundary` with its id moved one step onward, so that reading back beyond it includes the boundary row."""
    return tuple(
        UUID(int=min(max(value.int + (-1 if _reads_down(key, request) else 1), 0), _MAX_UUID))
        if key.field == TIE_BREAK and isinstance(value, UUID)
        else value
        for key, value in zip(request.order, boundary, strict=True)
    )

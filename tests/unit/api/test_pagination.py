"""Pages and cursors: walking a list in either direction shows every row once, and no text is a dangerous cursor."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Column, Connection, DateTime, MetaData, Table, Uuid, create_engine, delete, insert, select
from sqlalchemy.dialects import postgresql

from api.odata import OrderKey
from api.pagination import (
    MAX_CURSOR_LENGTH,
    Boundary,
    Direction,
    KeyType,
    KeyValue,
    Order,
    Page,
    PageRequest,
    build_page,
    decode_cursor,
    encode_cursor,
    page_request,
    paginate,
    parse_limit,
    seek_predicate,
)
from shared.errors import InvalidError


@dataclass(frozen=True)
class Row:
    created_at: datetime
    id: UUID


FIELDS: dict[str, KeyType] = {"created_at": datetime, "id": UUID}
ASCENDING: Order = (OrderKey("created_at"), OrderKey("id"))
DESCENDING: Order = (OrderKey("created_at", True), OrderKey("id", True))
ORDERS: list[Order] = [
    ASCENDING,
    DESCENDING,
    (OrderKey("created_at", True), OrderKey("id")),
    (OrderKey("created_at"), OrderKey("id", True)),
    (OrderKey("id", True), OrderKey("created_at")),
    (OrderKey("id"),),
]
START = datetime(2026, 1, 1, tzinfo=UTC)
ID = UUID("abcdef01-2345-4678-9abc-def012345678")
ROWS = Table(
    "rows",
    MetaData(),
    Column("id", Uuid, primary_key=True),
    Column("created_at", DateTime, nullable=False),
)

_orders = st.sampled_from(ORDERS)
_rows = st.lists(  # few distinct moments, so that most of them tie; the ends of the range of ids included
    st.builds(
        Row,
        st.integers(0, 2).map(lambda micros: START + timedelta(microseconds=micros)),
        (st.sampled_from([0, (1 << 128) - 1]) | st.integers(0, 20)).map(lambda number: UUID(int=number)),
    ),
    unique_by=lambda row: row.id,
    max_size=14,
)


@contextmanager
def _stored(rows: Sequence[Row]) -> Iterator[Connection]:
    engine = create_engine("sqlite://")
    try:
        with engine.begin() as connection:
            ROWS.create(connection)
            for row in rows:
                connection.execute(insert(ROWS).values(id=row.id, created_at=row.created_at))
            yield connection
    finally:
        engine.dispose()


def _request(
    cursor: str | None = None,
    *,
    limit: int | None = None,
    order: Order = ASCENDING,
    orderby: Order | None = None,
    filter_hash: str | None = None,
) -> PageRequest:
    return page_request(
        limit=None if limit is None else str(limit),
        cursor=cursor,
        orderby=orderby,
        default_order=order,
        fields=FIELDS,
        filter_hash=filter_hash,
    )


def _keys(row: Row) -> dict[str, KeyValue]:
    return {"created_at": row.created_at, "id": row.id}


def _read(connection: Connection, request: PageRequest) -> Page[Row]:
    found = connection.execute(paginate(select(ROWS.c.created_at, ROWS.c.id), request, dict(ROWS.c)))
    rows = [Row(row.created_at.replace(tzinfo=UTC), row.id) for row in found]
    assert len(rows) <= request.limit + 1
    return build_page(rows, request=request, key_of=_keys)


def _sorted(rows: Sequence[Row], order: Order) -> list[Row]:
    result = list(rows)
    for key in reversed(order):
        result.sort(key=attrgetter(key.field), reverse=key.descending)
    return result


def _cursor(**changes: Any) -> str:
    members = {
        "v": 1,
        "k": ["2026-01-01T00:00:00.000000Z", str(ID)],
        "o": "asc",
        "s": "+created_at,+id",
        "f": None,
        "d": "fwd",
    }
    return _encode(json.dumps(members | changes, separators=(",", ":")))


def _encode(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


@given(_rows, _orders, st.integers(1, 6))
def test_walking_forward_shows_every_row_once_and_back_again(rows: list[Row], order: Order, limit: int) -> None:
    """Forward: the sorted list. Back: the same list from its end, and the first page has no way further back."""
    expected = _sorted(rows, order)
    with _stored(rows) as connection:
        page = _read(connection, _request(limit=limit, order=order))
        assert page.prev_cursor is None
        seen = list(page.items)
        while page.next_cursor is not None:
            page = _read(connection, _request(page.next_cursor, limit=limit))
            assert page.items
            assert page.prev_cursor is not None
            seen += page.items
            assert len(seen) <= len(rows)
        assert seen == expected

        seen = list(page.items)
        while page.prev_cursor is not None:
            page = _read(connection, _request(page.prev_cursor, limit=limit))
            assert page.items
            assert page.next_cursor is not None
            seen = [*page.items, *seen]
            assert len(seen) <= len(rows)
        assert seen == expected


@given(_rows, _orders, st.integers(1, 4), st.integers(1, 4))
def test_neighbours_lead_back_to_each_other(rows: list[Row], order: Order, limit: int, other: int) -> None:
    """Next then prev, and prev then next, meet at the same edge, even with another limit."""
    with _stored(rows) as connection:
        first = _read(connection, _request(limit=limit, order=order))
        if first.next_cursor is None:
            return
        second = _read(connection, _request(first.next_cursor, limit=limit))
        back = _read(connection, _request(second.prev_cursor, limit=other))
        assert back.items == first.items[-other:]
        assert (back.prev_cursor is None) == (other >= limit)
        again = _read(connection, _request(back.next_cursor, limit=limit))
        assert again.items == second.items


@given(_rows, _orders, st.integers(1, 4), st.sets(st.integers(0, 20)))
def test_deletions_and_insertions_never_skip_or_repeat_a_row_that_stays(
    rows: list[Row], order: Order, limit: int, doomed: set[int]
) -> None:
    gone = [UUID(int=number) for number in doomed]
    with _stored(rows) as connection:
        page = _read(connection, _request(limit=limit, order=order))
        seen = list(page.items)
        connection.execute(delete(ROWS).where(ROWS.c.id.in_(gone)))
        late = Row(START - timedelta(days=1), UUID(int=99))
        connection.execute(insert(ROWS).values(id=late.id, created_at=late.created_at))
        while page.next_cursor is not None:
            page = _read(connection, _request(page.next_cursor, limit=limit))
            seen += page.items
            assert len(set(seen)) == len(seen)
    assert {row for row in rows if row.id not in gone} <= set(seen)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("number", [0, 7, (1 << 128) - 1])
def test_an_empty_page_leads_back_to_its_boundary_row(order: Order, number: int) -> None:
    row = Row(START, UUID(int=number))
    boundary = tuple(_keys(row)[key.field] for key in order)
    extreme = number != 7
    with _stored([row]) as connection:
        for way in Direction:
            empty = _read(connection, _request(encode_cursor(order, boundary, way, None)))
            forward = way is Direction.FORWARD
            assert empty.items == ()
            assert (empty.next_cursor if forward else empty.prev_cursor) is None
            back = _read(connection, _request(empty.prev_cursor if forward else empty.next_cursor))
            assert back.items == (row,) or extreme  # nothing lies beyond the ends of the id range


def test_an_empty_list_has_no_neighbours() -> None:
    assert build_page([], request=_request(), key_of=_keys) == Page((), 20, None, None)


@given(
    st.permutations(["created_at", "updated_at", "id"]).flatmap(
        lambda names: st.tuples(*(st.builds(OrderKey, st.just(name), st.booleans()) for name in names))
    ),
    st.datetimes(timezones=st.just(UTC)),
    st.uuids(),
    st.sampled_from(Direction),
    st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=16),
)
def test_cursors_round_trip(
    order: Order, moment: datetime, identity: UUID, direction: Direction, filter_hash: str | None
) -> None:
    boundary: Boundary = tuple(identity if key.field == "id" else moment for key in order)
    text = encode_cursor(order, boundary, direction, filter_hash)
    assert len(text) <= MAX_CURSOR_LENGTH
    fields: dict[str, KeyType] = {**FIELDS, "updated_at": datetime}
    assert decode_cursor(text, fields=fields) == (order, boundary, direction, filter_hash)


def test_the_wire_form_is_pinned() -> None:
    text = encode_cursor(DESCENDING, (datetime(2026, 1, 1, tzinfo=UTC), ID), Direction.BACKWARD, None)
    assert "=" not in text
    assert base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode() == (
        '{"v":1,"k":["2026-01-01T00:00:00.000000Z","abcdef01-2345-4678-9abc-def012345678"],'
        '"o":"desc","s":"-created_at,-id","f":null,"d":"bwd"}'
    )
    assert encode_cursor(ASCENDING, (datetime(2026, 1, 1, tzinfo=UTC), ID), Direction.FORWARD, None) == _cursor()


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("vkosfdx"), inner, max_size=6),
    max_leaves=10,
)


@given(
    st.text()
    | st.binary(max_size=200).map(lambda raw: base64.urlsafe_b64encode(raw).decode().rstrip("="))
    | _json.map(lambda value: _encode(json.dumps(value)))
    | st.dictionaries(st.sampled_from("vkosfd"), _json, max_size=2).map(lambda changes: _cursor(**changes))
    | st.tuples(st.integers(0, 200), st.text(max_size=3)).map(
        lambda edit: _cursor()[: edit[0]] + edit[1] + _cursor()[edit[0] :]
    )
)
def test_garbage_is_invalid_or_a_sound_cursor(text: str) -> None:
    try:
        request = _request(text)
    except InvalidError:
        return
    assert request.boundary is not None
    assert [type(value) for value in request.boundary] == [FIELDS[key.field] for key in request.order]
    assert build_page([], request=request, key_of=_keys).items == ()


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "=",
        "a",
        "%%%",
        "é",
        "\0",
        _cursor() + "=",
        _cursor() + "\n",
        _cursor()[:-3],
        _encode("not json"),
        _encode("[]"),
        _encode("null"),
        _encode("{}"),
        _encode("[" * 1500),
        _encode('{"v":' + "9" * 1400 + "}"),
        base64.urlsafe_b64encode(b'{"v":1,"k":["\xff"]}').decode().rstrip("="),
        _cursor(v=2),
        _cursor(v=0),
        _cursor(v=True),
        _cursor(v=1.0),
        _cursor(v="1"),
        _cursor(v=None),
        _cursor(k=None),
        _cursor(k=[]),
        _cursor(k="2026"),
        _cursor(k=[1, 2]),
        _cursor(k=["2026-01-01T00:00:00Z"]),
        _cursor(k=["2026-01-01T00:00:00Z", str(ID), str(ID)]),
        _cursor(k=[str(ID), "2026-01-01T00:00:00Z"]),
        _cursor(k=["2026-01-01", str(ID)]),
        _cursor(k=["2026-01-01T00:00:00Z", "x"]),
        _cursor(k=["2026-02-30T00:00:00Z", str(ID)]),
        _cursor(o="up"),
        _cursor(o="desc"),
        _cursor(o=None),
        _cursor(s=""),
        _cursor(s="created_at,id"),
        _cursor(s="+created_at, +id"),
        _cursor(s="+updated_at,+id"),
        _cursor(s="+created_at,+created_at"),
        _cursor(s="+created_at,+id,+id"),
        _cursor(s="+created_at", k=["2026-01-01T00:00:00Z"]),
        _cursor(s=["+created_at", "+id"]),
        _cursor(s="-created_at,+id"),
        _cursor(f=1),
        _cursor(d="up"),
        _cursor(d=None),
        _cursor(x=1),
        _cursor(f="x" * MAX_CURSOR_LENGTH),
    ],
)
def test_malformed_cursors_are_refused(cursor: str) -> None:
    with pytest.raises(InvalidError, match="cursor is invalid"):
        _request(cursor)


def test_a_cursor_fixes_the_order() -> None:
    cursor = _cursor(s="-created_at,+id", o="desc", d="bwd")
    request = _request(cursor, order=DESCENDING)
    assert request.order == (OrderKey("created_at", True), OrderKey("id"))
    assert request.boundary == (START, ID)
    assert request.direction is Direction.BACKWARD
    with pytest.raises(InvalidError, match="orderby"):
        _request(cursor, orderby=ASCENDING)


def test_a_cursor_belongs_to_its_filter() -> None:
    assert _request(_cursor(f="abc"), filter_hash="abc").filter_hash == "abc"
    for cursor, filter_hash in ((_cursor(f="abc"), None), (_cursor(), "abc"), (_cursor(f="abc"), "abd")):
        with pytest.raises(InvalidError, match="filter"):
            _request(cursor, filter_hash=filter_hash)


def test_both_cursors_of_a_page_carry_its_filter() -> None:
    rows = [Row(START, UUID(int=number)) for number in (1, 2)]
    page = build_page(rows, request=_request(_cursor(f="abc"), limit=1, filter_hash="abc"), key_of=_keys)
    for cursor in (page.next_cursor, page.prev_cursor):
        assert cursor is not None
        assert _request(cursor, filter_hash="abc").filter_hash == "abc"


def test_orderby_wins_over_the_default() -> None:
    assert _request().order == ASCENDING
    assert _request(orderby=DESCENDING).order == DESCENDING


@pytest.mark.parametrize(
    ("raw", "limit"),
    [(None, 20), ("1", 1), ("007", 7), ("100", 100), ("101", 100), ("1" + "0" * 5000, 100), ("0" * 5000 + "3", 3)],
)
def test_limits_are_clamped(raw: str | None, limit: int) -> None:
    assert parse_limit(raw) == limit


@pytest.mark.parametrize(
    "raw", ["", "0", "00", "-1", "+1", " 1", "1.0", "1e1", "1_0", "\uff12", "\u0662", "\u00b2", "ten", "\0"]
)
def test_bad_limits_are_refused(raw: str) -> None:
    with pytest.raises(InvalidError, match="limit"):
        parse_limit(raw)


def _sql(order: Order, direction: Direction) -> str:
    boundary = tuple(ID if key.field == "id" else START for key in order)
    predicate = seek_predicate(PageRequest(20, order, boundary, direction), dict(ROWS.c))
    return str(predicate.compile(dialect=postgresql.dialect()))  # type: ignore[no-untyped-call]


def test_one_direction_is_one_range_of_the_index() -> None:
    assert _sql(ASCENDING, Direction.FORWARD).startswith("(rows.created_at, rows.id) > (")
    assert _sql(ASCENDING, Direction.BACKWARD).startswith("(rows.created_at, rows.id) < (")
    assert _sql(DESCENDING, Direction.FORWARD).startswith("(rows.created_at, rows.id) < (")
    assert _sql(DESCENDING, Direction.BACKWARD).startswith("(rows.created_at, rows.id) > (")


def test_mixed_directions_are_spelled_out_behind_the_first_key() -> None:
    sql = _sql((OrderKey("created_at", True), OrderKey("id")), Direction.FORWARD)
    assert sql.startswith("rows.created_at <= ")
    assert " OR rows.created_at = " in sql

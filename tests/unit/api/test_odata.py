"""The query options: what they mean, and that nothing a client writes raises anything but `InvalidError`."""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from enum import StrEnum
from uuid import UUID

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sqlalchemy import Column, DateTime, MetaData, Table, Text, Uuid, create_engine, insert, select

from api.odata import (
    MAX_DEPTH,
    MAX_LENGTH,
    MEMBERSHIP,
    ORDERED,
    And,
    Comparison,
    Filter,
    FilterField,
    InList,
    Not,
    Op,
    Or,
    OrderKey,
    filter_hash,
    normalize,
    parse_filter,
    parse_orderby,
    parse_select,
    parse_timestamp,
    text_of,
    to_sql,
)
from shared.errors import InvalidError


class Role(StrEnum):
    USER = "user"
    ASSISTANT = "assistant"
    SYSTEM = "system"
    QUOTED = "o'clock"  # not a real role: here to need an escape


@dataclass(frozen=True)
class Row:
    id: UUID
    role: Role
    created_at: datetime


FIELDS = {
    "created_at": FilterField(datetime, ORDERED),
    "role": FilterField(Role, MEMBERSHIP),
    "id": FilterField(UUID, MEMBERSHIP),
}
SORTABLE = ("created_at", "id")
SELECTABLE = ("id", "content", "role")
ID = UUID("abcdef01-2345-4678-9abc-def012345678")
NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)
ROWS = Table(
    "rows",
    MetaData(),
    Column("id", Uuid, primary_key=True),
    Column("role", Text, nullable=False),
    Column("created_at", DateTime, nullable=False),
)

_moments = st.datetimes(timezones=st.just(UTC))
_few_moments = st.integers(0, 3).map(lambda days: NEW_YEAR + timedelta(days=days))
_few_ids = st.integers(1, 6).map(lambda number: UUID(int=number))
_roles = st.sampled_from(Role)


def _filters(moments: st.SearchStrategy[datetime], ids: st.SearchStrategy[UUID]) -> st.SearchStrategy[Filter]:
    equality = st.sampled_from([Op.EQ, Op.NE])
    leaves: st.SearchStrategy[Filter] = st.one_of(
        st.builds(Comparison, st.just("created_at"), st.sampled_from(sorted(ORDERED)), moments),
        st.builds(Comparison, st.just("role"), equality, _roles),
        st.builds(Comparison, st.just("id"), equality, ids),
        st.builds(InList, st.just("role"), st.lists(_roles, min_size=1, max_size=3).map(tuple)),
        st.builds(InList, st.just("id"), st.lists(ids, min_size=1, max_size=3).map(tuple)),
    )

    def grow(inner: st.SearchStrategy[Filter]) -> st.SearchStrategy[Filter]:
        terms = st.lists(inner, min_size=2, max_size=4).map(tuple)
        return st.one_of(st.builds(Not, inner), st.builds(And, terms), st.builds(Or, terms))

    return st.recursive(leaves, grow, max_leaves=12)


def _holds(where: Filter, row: Row) -> bool:
    match where:
        case Comparison(field, op, value):
            compare: Callable[[object, object], bool] = getattr(operator, op)
            return compare(getattr(row, field), value)
        case InList(field, values):
            return getattr(row, field) in values
        case Not(term):
            return not _holds(term, row)
        case And(terms):
            return all(_holds(term, row) for term in terms)
        case Or(terms):
            return any(_holds(term, row) for term in terms)


def _parse(text: str) -> Filter:
    return parse_filter(text, fields=FIELDS)


def _role(role: Role = Role.USER) -> Comparison:
    return Comparison("role", Op.EQ, role)


@given(_filters(_moments, st.uuids()))
def test_canonical_text_parses_back_to_the_same_filter(where: Filter) -> None:
    text = normalize(where)
    assume(len(text) <= MAX_LENGTH)
    assert _parse(text) == where
    assert normalize(_parse(text)) == text


@given(
    st.lists(
        st.builds(Row, _few_ids, _roles, _few_moments),
        unique_by=lambda row: row.id,
        max_size=6,
    ),
    _filters(_few_moments, _few_ids),
)
def test_sql_selects_the_rows_for_which_the_filter_holds(rows: list[Row], where: Filter) -> None:
    engine = create_engine("sqlite://")
    try:
        with engine.begin() as connection:
            ROWS.create(connection)
            for row in rows:
                connection.execute(insert(ROWS).values(id=row.id, role=row.role, created_at=row.created_at))
            found = connection.scalars(select(ROWS.c.id).where(to_sql(where, dict(ROWS.c)))).all()
    finally:
        engine.dispose()
    assert set(found) == {row.id for row in rows if _holds(where, row)}


@given(st.text(max_size=60) | st.lists(st.sampled_from(list("'(), \t\0") + sorted(Op) + [
    "and", "or", "not", "role", "created_at", "id", "'user'", str(ID), "2026-01-01T00:00:00Z", "é", "desc",
]), max_size=12).map(" ".join))  # fmt: skip
def test_no_text_raises_anything_but_invalid(text: str) -> None:
    for parse in (
        lambda: parse_filter(text, fields=FIELDS),
        lambda: parse_orderby(text, fields=SORTABLE),
        lambda: parse_select(text, fields=SELECTABLE),
    ):
        with suppress(InvalidError):
            parse()


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("role eq 'user'", _role()),
        ("  role\teq'user'\n", _role()),
        ("role eq 'o''clock'", _role(Role.QUOTED)),
        ("((role eq 'user'))", _role()),
        (f"id ne {str(ID).upper()}", Comparison("id", Op.NE, ID)),
        (f"id eq '{ID}'", Comparison("id", Op.EQ, ID)),
        (f"id in ('{ID}',{ID})", InList("id", (ID, ID))),
        ("role in('user','system')", InList("role", (Role.USER, Role.SYSTEM))),
        ("created_at ge 2026-01-01T00:00:00Z", Comparison("created_at", Op.GE, NEW_YEAR)),
        ("not not role eq 'user'", Not(Not(_role()))),
        ("not(role eq 'user')", Not(_role())),
        (
            "not role eq 'user' and role eq 'system' or role eq 'assistant'",
            Or((And((Not(_role()), _role(Role.SYSTEM))), _role(Role.ASSISTANT))),
        ),
        (
            "not (role eq 'user' or role eq 'system') and (role eq 'user' or role eq 'user')",
            And((Not(Or((_role(), _role(Role.SYSTEM)))), Or((_role(), _role())))),
        ),
    ],
)
def test_filters_mean_what_they_say(text: str, where: Filter) -> None:
    assert _parse(text) == where


@pytest.mark.parametrize(
    ("text", "detail"),
    [
        ("", "ends too soon"),
        ("role", "ends too soon"),
        ("role eq", "ends too soon"),
        ("role eq 'user' and", "ends too soon"),
        ("not", "ends too soon"),
        ("(role eq 'user'", "ends too soon"),
        ("role eq 'user')", "position 14"),
        ("role eq 'user", "position 8"),
        ("role eq 'user' role eq 'user'", "position 15"),
        ("role eq 'user' AND role eq 'user'", "position 15"),
        ("role eq ('user')", "position 8"),
        ("role in 'user'", "position 8"),
        ("role in ()", "position 9"),
        ("role in ('user',)", "position 16"),
        ("röle eq 'user'", "position 1"),
        ("content eq 'x'", "unknown field 'content'"),
        ("Role eq 'user'", "unknown field 'Role'"),
        ("and eq 'user'", "unknown field 'and'"),
        ("x" * 4000 + " eq 'user'", "unknown field"),
        ("role EQ 'user'", "takes eq, ne, in, not 'EQ'"),
        ("role gt 'user'", "takes eq, ne, in, not 'gt'"),
        (f"id lt {ID}", "takes eq, ne, in, not 'lt'"),
        ("created_at in (2026-01-01T00:00:00Z)", "'created_at' takes eq, ne, gt, ge, lt, le, not 'in'"),
        ("role contains 'user'", "not 'contains'"),
        ("role eq 'tool'", "one of 'user', 'assistant', 'system'"),
        ("role eq 'User'", "one of"),
        ("role eq user", "one of"),
        ("role in ('user', 'tool')", "one of"),
        ("role eq null", "one of"),
        ("id eq 7", "a UUID"),
        ("id eq 'x'", "a UUID"),
        (f"id eq {ID.hex}", "a UUID"),
        (f"id eq '{{{ID}}}'", "a UUID"),
        ("id in ('user')", "a UUID"),
        ("created_at eq '2026-01-01T00:00:00Z'", "a bare RFC 3339 timestamp"),
        (f"created_at eq {ID}", "a bare RFC 3339 timestamp"),
        ("created_at eq 2026-02-30T00:00:00Z", "a bare RFC 3339 timestamp"),
        ("role eq 'user\0'", "U+0000"),
        ("role eq 'user'" + " " * MAX_LENGTH, "longer than 4096"),
        ("(" * 2000 + ")" * 2000, "position"),
    ],
)
def test_bad_filters_say_what_is_wrong(text: str, detail: str) -> None:
    with pytest.raises(InvalidError) as raised:
        _parse(text)
    assert detail in raised.value.detail
    assert len(raised.value.detail) < 200


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-01-01T00:00:00Z", NEW_YEAR),
        ("2026-01-01t00:00:00z", NEW_YEAR),
        ("2026-01-01T02:30:00+02:30", NEW_YEAR),
        ("2025-12-31T23:00:00-01:00", NEW_YEAR),
        ("2026-01-01T00:00:00.5Z", NEW_YEAR + timedelta(milliseconds=500)),
        ("2026-01-01T00:00:00.123456789Z", NEW_YEAR + timedelta(microseconds=123456)),
        ("2024-02-29T00:00:00Z", datetime(2024, 2, 29, tzinfo=UTC)),
        ("0001-01-01T00:00:00Z", datetime(1, 1, 1, tzinfo=UTC)),
        ("9999-12-31T23:59:59.9999999Z", datetime.max.replace(tzinfo=UTC)),
    ],
)
def test_timestamps_are_rfc_3339_cut_to_microseconds(text: str, moment: datetime) -> None:
    parsed = parse_timestamp(text)
    assert parsed == moment
    assert parsed.tzinfo is UTC


@pytest.mark.parametrize(
    "text",
    [
        "2026-01-01",
        "2026-01-01T00:00Z",
        "2026-01-01T00:00:00",
        "2026-01-01 00:00:00Z",
        "2026-01-01T00:00:00.Z",
        "2026-01-01T00:00:00,5Z",
        "2026-01-01T00:00:00.1234567890Z",
        "2026-01-01T00:00:00+0200",
        "2026-01-01T00:00:00+24:00",
        "2026-01-01T00:00:00+02:60",
        "2026-01-01T24:00:00Z",
        "2026-01-01T23:59:60Z",
        "2026-13-01T00:00:00Z",
        "2026-04-31T00:00:00Z",
        "2025-02-29T00:00:00Z",
        "0000-01-01T00:00:00Z",
        "10000-01-01T00:00:00Z",
        "0001-01-01T00:00:00+00:01",
        "9999-12-31T23:59:59-00:01",
        "\uff12026-01-01T00:00:00Z",
        "20260101T000000Z",
        "2026-W01-1T00:00:00Z",
    ],
)
def test_other_timestamps_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"out of range|not an RFC 3339|must be in"):
        parse_timestamp(text)
    with pytest.raises(InvalidError):
        _parse(f"created_at eq {text}")


@given(_moments, st.integers(-1439, 1439))
def test_a_moment_keeps_its_identity_in_any_offset(moment: datetime, minutes: int) -> None:
    try:
        shifted = moment.astimezone(timezone(timedelta(minutes=minutes)))
    except OverflowError:
        assume(False)
    assert parse_timestamp(shifted.isoformat()) == moment
    assert text_of(shifted) == text_of(moment)


_OPEN_CLOSE = [("(", ")"), ("not ", ""), ("not (", ")"), ("(id ne " + str(ID) + " or not (", "))")]


@pytest.mark.parametrize(("opening", "closing"), _OPEN_CLOSE)
def test_nesting_is_bounded(opening: str, closing: str) -> None:
    levels = opening.count("(") + opening.count("not")
    fits = MAX_DEPTH // levels
    _parse(opening * fits + "role eq 'user'" + closing * fits)
    over = fits + 1
    with pytest.raises(InvalidError, match="nested more than 32"):
        _parse(opening * over + "role eq 'user'" + closing * over)


@pytest.mark.parametrize(("opening", "closing"), _OPEN_CLOSE)
def test_longest_nesting_is_refused_without_a_recursion_error(opening: str, closing: str) -> None:
    inner = "role eq 'user'"
    count = (MAX_LENGTH - len(inner)) // len(opening + closing)
    with pytest.raises(InvalidError, match="nested more than 32"):
        _parse(opening * count + inner + closing * count)


@pytest.fixture
def shallow_stack() -> Iterator[None]:
    """Half of the usual stack: the server's own frames take their share of the rest."""
    usual = sys.getrecursionlimit()
    sys.setrecursionlimit(len(list(_frames())) + usual // 2)
    try:
        yield
    finally:
        sys.setrecursionlimit(usual)


def _frames() -> Iterator[object]:
    frame = sys._getframe()
    while frame.f_back is not None:
        yield frame
        frame = frame.f_back


@pytest.mark.usefixtures("shallow_stack")
def test_the_deepest_filter_compiles() -> None:
    leaf = f"id ne {ID}"
    text = leaf
    for level in range(MAX_DEPTH):
        text = f"({text} {'and' if level % 2 else 'or'} {leaf})"
    where = _parse(text)
    assert _parse(normalize(where)) == where
    compiled = select(ROWS).where(to_sql(where, dict(ROWS.c))).compile()
    assert len(compiled.params) == MAX_DEPTH + 1


def test_literals_are_bound_parameters() -> None:
    where = _parse(f"role in ('o''clock') and id eq {ID} and created_at lt 2026-01-01T00:00:00Z")
    compiled = select(ROWS).where(to_sql(where, dict(ROWS.c))).compile()
    assert "clock" not in str(compiled)
    assert list(compiled.params.values()) == [[Role.QUOTED], ID, NEW_YEAR]


def test_the_hash_names_the_meaning_not_the_spelling() -> None:
    one = _parse(f"created_at gt 2026-01-01T01:00:00+01:00 and (id eq '{str(ID).upper()}')")
    other = _parse(f"created_at   gt 2026-01-01T00:00:00.000Z and id eq {ID}")
    assert filter_hash(normalize(one)) == filter_hash(normalize(other))
    assert filter_hash(normalize(one)) != filter_hash(normalize(_parse(f"id eq {ID}")))
    assert filter_hash("role eq 'user'") == "c175d7f91f49f2a4"


@pytest.mark.parametrize(
    ("text", "order"),
    [
        ("created_at", (OrderKey("created_at"), OrderKey("id"))),
        ("created_at asc", (OrderKey("created_at"), OrderKey("id"))),
        (" created_at  desc ", (OrderKey("created_at", True), OrderKey("id", True))),
        ("created_at desc,id", (OrderKey("created_at", True), OrderKey("id"))),
        ("id desc , created_at", (OrderKey("id", True), OrderKey("created_at"))),
        ("id", (OrderKey("id"),)),
    ],
)
def test_orders_are_made_total(text: str, order: tuple[OrderKey, ...]) -> None:
    assert parse_orderby(text, fields=SORTABLE) == order


@pytest.mark.parametrize(
    ("text", "detail"),
    [
        ("", "ends too soon"),
        ("created_at,", "ends too soon"),
        (",created_at", "position 0"),
        ("created_at asc desc", "position 15"),
        ("created_at+desc", "position 10"),
        ("created_at DESC", "must be asc or desc"),
        ("created_at id", "must be asc or desc"),
        ("role", "unknown field 'role'"),
        ("ID", "unknown field 'ID'"),
        ("id, id desc", "given twice"),
        ("id," * 2000 + "id", "longer than 4096"),
    ],
)
def test_bad_orders_say_what_is_wrong(text: str, detail: str) -> None:
    with pytest.raises(InvalidError) as raised:
        parse_orderby(text, fields=SORTABLE)
    assert detail in raised.value.detail


def test_a_selection_keeps_order_and_drops_repeats() -> None:
    assert parse_select(" id,content , id", fields=SELECTABLE) == ("id", "content")


@pytest.mark.parametrize("text", ["", " ", ",", "id,", "id content", "Id", "*", "id,secret", "id\0"])
def test_bad_selections_are_refused(text: str) -> None:
    with pytest.raises(InvalidError, match=r"^\$select"):
        parse_select(text, fields=SELECTABLE)

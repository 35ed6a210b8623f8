"""The query options of lists: `$filter`, `$orderby` and `$select`, a small and closed part of OData.

Text is parsed into frozen values whose literals are already converted: aware UTC datetimes, UUIDs, members of a
string enum. What a resource allows is data that it passes in. Everything a client can get wrong raises
`InvalidError`, and what a client can make us do is bounded: an option holds at most `MAX_LENGTH` characters and a
filter nests at most `MAX_DEPTH` groups and negations, which keeps every recursion over the result shallow.

Field names are case-sensitive, keywords are lower case, white space between words is free. Timestamps are bare
RFC 3339 with an offset or `Z`; enum values are quoted, with `''` for a quote; UUIDs may be either.
"""

from __future__ import annotations

import hashlib
import operator
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final, TypeAlias, cast
from uuid import UUID

from lark import Lark, Token, Tree
from lark.exceptions import UnexpectedInput, UnexpectedToken
from sqlalchemy import ColumnElement, and_, not_, or_

from shared.errors import InvalidError

MAX_LENGTH: Final = 4096
MAX_DEPTH: Final = 32
TIE_BREAK: Final = "id"

# Names and bare literals are wide on purpose: a wrong operator or literal is then refused by name, below, and not as
# bad syntax. The contextual lexer never confuses the two, as no state of the parser accepts both.
_PARSER: Final = Lark(
    r"""
    filter      : any
    ?any        : all ("or" all)*
    ?all        : _unary ("and" _unary)*
    _unary      : negation | group | comparison | membership
    negation    : "not" _unary
    group       : "(" any ")"
    comparison  : NAME NAME _literal
    membership  : NAME IN "(" _literal ("," _literal)* ")"
    _literal    : QUOTED | BARE

    orderby     : order_key ("," order_key)*
    order_key   : NAME NAME?
    select      : NAME ("," NAME)*

    IN          : "in"
    NAME        : /[A-Za-z_][A-Za-z0-9_]*/
    QUOTED      : /'(?:[^']|'')*'/
    BARE        : /[^\s'(),]+/
    %ignore /[ \t\r\n]+/
    """,
    parser="lalr",
    start=["filter", "orderby", "select"],
)

_HOUR_MINUTE: Final = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]"
_TIMESTAMP: Final = re.compile(
    rf"[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}[Tt]{_HOUR_MINUTE}:[0-5][0-9](?:\.[0-9]{{1,9}})?(?:[Zz]|[+-]{_HOUR_MINUTE})"
)
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")

Value: TypeAlias = datetime | UUID | StrEnum


class Op(StrEnum):
    EQ = "eq"
    NE = "ne"
    GT = "gt"
    GE = "ge"
    LT = "lt"
    LE = "le"
    IN = "in"


ORDERED: Final = frozenset(Op) - {Op.IN}
MEMBERSHIP: Final = frozenset({Op.EQ, Op.NE, Op.IN})

_COMPARE: Final[Mapping[Op, Callable[[Any, Any], Any]]] = {
    op: getattr(operator, op) for op in (Op.EQ, Op.NE, Op.GT, Op.GE, Op.LT, Op.LE)
}


@dataclass(frozen=True, slots=True)
class FilterField:
    """What a filter may say about one field: the type of its literals and the operators it takes."""

    type: type[datetime] | type[UUID] | type[StrEnum]
    ops: frozenset[Op]


@dataclass(frozen=True, slots=True)
class Comparison:
    field: str
    op: Op
    value: Value


@dataclass(frozen=True, slots=True)
class InList:
    field: str
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class And:
    terms: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Or:
    terms: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Not:
    term: Filter


Filter: TypeAlias = Comparison | InList | And | Or | Not


@dataclass(frozen=True, slots=True)
class OrderKey:
    field: str
    descending: bool = False


def parse_filter(text: str, *, fields: Mapping[str, FilterField]) -> Filter:
    """The condition that `text` states, checked against what `fields` allow.

    Raises:
        InvalidError: bad syntax, too long, too deep, an unknown field, or an operator or literal it does not take.
    """
    return _build(_parse(text, "filter"), fields, depth=0)


def parse_orderby(text: str, *, fields: Collection[str]) -> tuple[OrderKey, ...]:
    """The keys of `text`, made total: without `id`, it is appended in the direction of the last key."""
    keys: list[OrderKey] = []
    for node in cast("list[Tree[Token]]", _parse(text, "orderby").children):
        field, *direction = (str(word) for word in node.children)
        _check_name("$orderby", field, fields)
        if direction not in ([], ["asc"], ["desc"]):
            raise InvalidError(f"$orderby: the direction of {field!r} must be asc or desc")
        if any(key.field == field for key in keys):
            raise InvalidError(f"$orderby: {field!r} is given twice")
        keys.append(OrderKey(field, descending=direction == ["desc"]))
    if all(key.field != TIE_BREAK for key in keys):
        keys.append(OrderKey(TIE_BREAK, descending=keys[-1].descending))
    return tuple(keys)


def parse_select(text: str, *, fields: Collection[str]) -> tuple[str, ...]:
    """The selected names in the order of first mention; a name given twice counts once."""
    names = tuple(dict.fromkeys(str(name) for name in _parse(text, "select").children))
    for name in names:
        _check_name("$select", name, fields)
    return names


def normalize(where: Filter) -> str:
    """The canonical text of `where`: it parses back to an equal filter, and equal filters have equal texts."""
    match where:
        case Comparison(field, op, value):
            return f"{field} {op} {_literal(value)}"
        case InList(field, values):
            return f"{field} in ({', '.join(_literal(value) for value in values)})"
        case Not(term):
            return f"not {_operand(term, And, Or)}"
        case And(terms):
            return " and ".join(_operand(term, And, Or) for term in terms)
        case Or(terms):
            return " or ".join(_operand(term, Or) for term in terms)


def filter_hash(normalized: str) -> str:
    """A short name for a normalized filter, to notice that a cursor belongs to another one."""
    return hashlib.sha256(normalized.encode()).hexdigest()[:16]


def to_sql(where: Filter, columns: Mapping[str, ColumnElement[Any]]) -> ColumnElement[bool]:
    """`where` as an SQL expression over `columns`; every literal is a bound parameter of its column's type."""
    match where:
        case Comparison(field, op, value):
            return cast("ColumnElement[bool]", _COMPARE[op](columns[field], value))
        case InList(field, values):
            return columns[field].in_(values)
        case Not(term):
            return not_(to_sql(term, columns))
        case And(terms):
            return and_(*(to_sql(term, columns) for term in terms))
        case Or(terms):
            return or_(*(to_sql(term, columns) for term in terms))


def parse_timestamp(text: str) -> datetime:
    """An RFC 3339 timestamp as aware UTC, cut to microseconds; ValueError if it is none or out of range."""
    if _TIMESTAMP.fullmatch(text) is None:
        raise ValueError("not an RFC 3339 timestamp with an offset")
    try:
        return datetime.fromisoformat(text.upper()).astimezone(UTC)
    except OverflowError as error:
        raise ValueError("out of range") from error


def parse_uuid(text: str) -> UUID:
    """A hyphenated UUID in any case; ValueError for the other spellings that `UUID` itself would take."""
    if _UUID.fullmatch(text) is None:
        raise ValueError("not a hyphenated UUID")
    return UUID(text)


def text_of(value: Value) -> str:
    """The inverse of parsing: UTC with microseconds and `Z`, a lower-case UUID, the value of an enum member."""
    if isinstance(value, datetime):
        # Not strftime: it does not pad years before 1000 everywhere, and a cursor has to parse again.
        return value.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
    return str(value)


def _parse(text: str, option: str) -> Tree[Token]:
    if len(text) > MAX_LENGTH:
        raise InvalidError(f"${option} is longer than {MAX_LENGTH} characters")
    if "\0" in text:
        raise InvalidError(f"${option} must not contain U+0000")
    try:
        return _PARSER.parse(text, start=option)
    except UnexpectedToken as error:
        place = "ends too soon" if error.token.type == "$END" else f"has bad syntax at position {error.pos_in_stream}"
        raise InvalidError(f"${option} {place}") from error
    except UnexpectedInput as error:
        raise InvalidError(f"${option} has bad syntax at position {error.pos_in_stream}") from error


def _build(node: Tree[Token], fields: Mapping[str, FilterField], *, depth: int) -> Filter:
    if depth > MAX_DEPTH:
        raise InvalidError(f"$filter is nested more than {MAX_DEPTH} levels deep")
    if node.data in ("comparison", "membership"):
        return _condition(cast("list[Token]", node.children), fields)
    inner = depth + (node.data in ("group", "negation"))
    terms = tuple(_build(child, fields, depth=inner) for child in cast("list[Tree[Token]]", node.children))
    match node.data:
        case "any":
            return Or(terms)
        case "all":
            return And(terms)
        case "negation":
            return Not(terms[0])
        case _:  # a group, or the root
            return terms[0]


def _condition(words: list[Token], fields: Mapping[str, FilterField]) -> Comparison | InList:
    name, verb, *literals = words
    field = str(name)
    _check_name("$filter", field, fields)
    allowed = fields[field]
    if verb not in allowed.ops:
        takes = ", ".join(op for op in Op if op in allowed.ops)
        raise InvalidError(f"$filter: {field!r} takes {takes}, not {str(verb)[:64]!r}")
    values = tuple(_value(literal, field, allowed) for literal in literals)
    return InList(field, values) if verb.type == "IN" else Comparison(field, Op(verb), values[0])


def _value(literal: Token, field: str, allowed: FilterField) -> Value:
    is_quoted = literal.type == "QUOTED"
    text = literal[1:-1].replace("''", "'") if is_quoted else str(literal)
    try:
        if issubclass(allowed.type, datetime):
            wanted = "a bare RFC 3339 timestamp with an offset"
            if not is_quoted:
                return parse_timestamp(text)
        elif issubclass(allowed.type, UUID):
            wanted = "a UUID"
            return parse_uuid(text)
        else:
            wanted = "one of " + ", ".join(f"'{member}'" for member in allowed.type)
            if is_quoted:
                return allowed.type(text)
    except ValueError as error:
        raise InvalidError(f"$filter: {field!r} is compared with {wanted}") from error
    raise InvalidError(f"$filter: {field!r} is compared with {wanted}")


def _check_name(option: str, name: str, allowed: Collection[str]) -> None:
    if name not in allowed:
        raise InvalidError(f"{option}: unknown field {name[:64]!r}; known are {', '.join(sorted(allowed))}")


def _literal(value: Value) -> str:
    return "'" + value.replace("'", "''") + "'" if isinstance(value, StrEnum) else text_of(value)


def _operand(term: Filter, *looser: type[And | Or]) -> str:
    """`term` as part of an expression that binds tighter than `looser`."""
    return f"({normalize(term)})" if isinstance(term, looser) else normalize(term)

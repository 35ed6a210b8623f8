"""What every table shares: names of constraints by convention, UTC timestamps, UUID keys made by the application."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, ClassVar
from uuid import UUID

from sqlalchemy import BigInteger, DateTime, Integer, MetaData, Table, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import DeclarativeBase, mapped_column

NAMING_CONVENTION = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class Base(DeclarativeBase):
    """The declarative base. Rows are plain values: no relationships, children are asked for by id."""

    metadata = MetaData(naming_convention=NAMING_CONVENTION)
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        datetime: DateTime(timezone=True),
        dict[str, Any]: postgresql.JSONB,
        list[Any]: postgresql.JSONB,
    }


UuidKey = Annotated[UUID, mapped_column(primary_key=True)]
BigCount = Annotated[int, mapped_column(BigInteger, server_default=text("0"))]
"""A counter that starts at zero and never goes below."""
Count = Annotated[int, mapped_column(Integer, server_default=text("0"))]


def table_of(entity: type[Base]) -> Table:
    """The table behind an entity, for statements that the unit of work has no part in."""
    table = entity.__table__
    assert isinstance(table, Table)  # noqa: S101 (entities are mapped to tables, not to selects)
    return table

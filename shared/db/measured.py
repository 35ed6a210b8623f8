"""How long statements take and how they fail, by what they do: `select chat_turns`, `insert messages`.

A name is a verb and one of our tables, so that there are only so many: the table that a statement writes, else the
first that it reads. SQL that is written by hand and begins with WITH is called so.
"""

from __future__ import annotations

import re
import time
from typing import Any, Final

from sqlalchemy import Connection, event
from sqlalchemy.engine import ExceptionContext, ExecutionContext
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.sql.dml import UpdateBase
from sqlalchemy.sql.selectable import TableClause

from shared.db.base import Base
from shared.metrics import Metrics

OTHER: Final = "other"
CONNECT: Final = "connect"
UNKNOWN: Final = "unknown"
"""The code of a failure that PostgreSQL has not given one, such as a broken connection."""

_VERB: Final = re.compile(r"\s*(select|insert|update|delete|with)\b", re.IGNORECASE)
_TABLE: Final = re.compile(r"\b(?:from|into|update|join)\s+(?:only\s+)?\"?(\w+)", re.IGNORECASE)
_BEGAN: Final = "mini_chat_began"
_NAMES_KEPT: Final = 2_048


class _Names:
    """Names by text, which is the same object for a statement that is compiled once."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def of(self, statement: str, context: ExecutionContext | None) -> str:
        name = self._known.get(statement)
        if name is None:
            if len(self._known) >= _NAMES_KEPT:
                self._known.clear()
            name = self._known[statement] = query_name(statement, context)
        return name


def query_name(statement: str, context: ExecutionContext | None = None) -> str:
    """One of a bounded set of names."""
    compiled = None if context is None else context.compiled
    written = None if compiled is None else compiled.statement
    if isinstance(written, UpdateBase) and isinstance(written.table, TableClause):
        return f"{written.__visit_name__} {written.table.name}"
    verb = _VERB.match(statement)
    table = next((name for name in _TABLE.findall(statement) if name in Base.metadata.tables), None)
    return OTHER if verb is None or table is None else f"{verb[1].lower()} {table}"


def measure_statements(engine: AsyncEngine, metrics: Metrics) -> None:
    """Observe every statement of `engine` from here on. BEGIN and COMMIT are not statements here."""
    names = _Names()

    def begin(connection: Connection, *_: Any) -> None:
        connection.info[_BEGAN] = time.perf_counter()

    def end(connection: Connection, _cursor: Any, statement: str, _values: Any, context: Any, _many: bool) -> None:
        elapsed_ms = (time.perf_counter() - connection.info[_BEGAN]) * 1000
        metrics.db_query_latency_ms.labels(names.of(statement, context)).observe(elapsed_ms)

    def fail(failure: ExceptionContext) -> None:
        query = CONNECT
        if failure.connection is not None:
            query = names.of(failure.statement or "", failure.execution_context)
        code = getattr(failure.original_exception, "sqlstate", None) or UNKNOWN
        metrics.db_errors.labels(query, code).inc()

    event.listen(engine.sync_engine, "before_cursor_execute", begin)
    event.listen(engine.sync_engine, "after_cursor_execute", end)
    event.listen(engine.sync_engine, "handle_error", fail)

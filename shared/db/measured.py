"""How long statements take and how they fail, by what they do: `select chat_turns`, `insert messages`.

A name is a verb and one of our tables, so that there are only so many: the table that a statement writes, else the
first that it reads. SQL that is written by hand and begins with WITH is called so.
"""

from __future__ import annotations

import re
import time
from typing import Any, Final

from prometheus_client import Histogram
from sqlalchemy import Connection, Dialect, event
from sqlalchemy.engine import ExceptionContext, ExecutionContext
from sqlalchemy.engine.interfaces import DBAPIConnection
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
_TEXTS_KEPT: Final = 2_048


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
    latencies: dict[str, Histogram] = {}  # by text, which is the same object for a statement that is compiled once

    def begin(connection: Connection, *_: Any) -> None:
        connection.info[_BEGAN] = time.perf_counter()

    def end(connection: Connection, _cursor: Any, statement: str, _values: Any, context: Any, _many: bool) -> None:
        latency = latencies.get(statement)
        if latency is None:
            if len(latencies) >= _TEXTS_KEPT:
                latencies.clear()
            latency = latencies[statement] = metrics.db_query_latency_ms.labels(query_name(statement, context))
        latency.observe((time.perf_counter() - connection.info[_BEGAN]) * 1000)

    def fail(failure: ExceptionContext) -> None:
        if failure.connection is not None:
            count(query_name(failure.statement or "", failure.execution_context), failure.original_exception)

    def connect(dialect: Dialect, _record: Any, arguments: Any, parameters: Any) -> DBAPIConnection:
        try:
            return dialect.connect(*arguments, **parameters)
        except Exception as error:  # a socket's are not told to `handle_error`
            count(CONNECT, error)
            raise

    def count(query: str, error: BaseException) -> None:
        metrics.db_errors.labels(query, getattr(error, "sqlstate", None) or UNKNOWN).inc()

    event.listen(engine.sync_engine, "do_connect", connect)
    event.listen(engine.sync_engine, "before_cursor_execute", begin)
    event.listen(engine.sync_engine, "after_cursor_execute", end)
    event.listen(engine.sync_engine, "handle_error", fail)

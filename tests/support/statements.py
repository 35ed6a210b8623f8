"""The SQL statements that a piece of code sends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from sqlalchemy import Engine, event

_IS_NOTED: ContextVar[bool] = ContextVar("_IS_NOTED", default=False)


@contextmanager
def noted_statements(engine: Engine) -> Iterator[list[str]]:
    """What the block sends, in order; not what tasks send that were there before, such as those that set the gauges."""
    statements: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if _IS_NOTED.get():
            statements.append(statement)

    token = _IS_NOTED.set(True)
    event.listen(engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        event.remove(engine, "before_cursor_execute", note)
        _IS_NOTED.reset(token)

from __future__ import annotations

import json
import logging
import sys
from typing import Any
from uuid import UUID

from shared.ids import new_uuid4
from shared.logs import JsonFormatter, add_log_fields, log_context, log_fields


def line(message: str = "hello", *args: object, exc_info: Any = None, **extra: object) -> dict[str, Any]:
    """What the formatter writes, read back."""
    record = logging.getLogger("some.logger").makeRecord(
        "some.logger", logging.INFO, __file__, 1, message, args, exc_info, extra=extra
    )
    parsed: dict[str, Any] = json.loads(JsonFormatter("api").format(record))
    return parsed


def test_a_line_says_when_where_and_what() -> None:
    written = line("%d of %s", 1, "two")
    assert written["timestamp"].endswith("Z")
    assert written | {"timestamp": None} == {
        "timestamp": None,
        "level": "info",
        "logger": "some.logger",
        "process": "api",
        "message": "1 of two",
    }


def test_fields_come_from_the_context_and_from_extra() -> None:
    turn_id = new_uuid4()
    with log_fields(trace_id="t", turn_id=turn_id):
        add_log_fields(user_id="u")
        written = line(status="ok")
        assert log_context.get()["user_id"] == "u"
    assert {written[name] for name in ("trace_id", "user_id", "status")} == {"t", "u", "ok"}
    assert UUID(written["turn_id"]) == turn_id
    assert "trace_id" not in line()


def test_an_exception_is_part_of_its_line() -> None:
    try:
        raise ValueError("oh")
    except ValueError:
        assert "ValueError: oh" in line(exc_info=sys.exc_info())["exception"]


def test_what_json_cannot_hold_is_still_logged() -> None:
    assert "lone" in line("lone \ud800")["message"]
    assert str(2**70) in line(number=2**70)["number"]

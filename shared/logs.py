"""Logging of every process: one JSON object a line on standard error, through the standard library.

A line has `timestamp`, `level`, `logger`, `process`, `message`, the fields of `log_context` and those given with
`extra=`. The names to use, so that one query finds a turn in the logs of all processes:

    trace_id, request_id, chat_id, turn_id, tenant_id, user_id
    requester_type      user, system
    processing_stage    request, relay; generate, finalize; sweep, watchdog; index, summarize; deliver
    status              ok, error, cancelled, replayed: how a request or a turn has ended
    error_code          of a problem, or of the turn

Message text, prompts and secrets are never logged; what is not passed here cannot leak here.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final

import orjson

from shared.clock import rfc3339

_NOTHING: Final[Mapping[str, object]] = MappingProxyType({})
_RECORD_MEMBERS: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}

# arq logs each job with its arguments; openai, and the HTTP client below it, each request with the provider's ids:
# they are part of its URL.
_TALKATIVE: Final = ("arq", "openai", "httpx2", "httpcore2")

log_context: ContextVar[Mapping[str, object]] = ContextVar("log_context", default=_NOTHING)
"""Fields of every line that the running task logs."""


def add_log_fields(**fields: object) -> None:
    """Add to `log_context` for the rest of the running task and the tasks that it starts from here on."""
    log_context.set({**log_context.get(), **fields})


@contextmanager
def log_fields(**fields: object) -> Iterator[None]:
    """Add to `log_context` for the length of the block."""
    token = log_context.set({**log_context.get(), **fields})
    try:
        yield
    finally:
        log_context.reset(token)


def configure_logging(level: str, process: str) -> None:
    """Send all loggers, those of uvicorn, arq and alembic included, to standard error as JSON lines.

    Args:
        level: the least severe level to write, by name, in any case.
        process: what the lines are marked with, such as `api`.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(process))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)


class JsonFormatter(logging.Formatter):
    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "timestamp": rfc3339(datetime.fromtimestamp(record.created, UTC)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": self._process,
            "message": record.getMessage(),
            **log_context.get(),
            **{name: value for name, value in vars(record).items() if name not in _RECORD_MEMBERS},
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = self.formatStack(record.stack_info)
        try:
            return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
        except TypeError:  # a lone surrogate, or an integer past 64 bits: a log line must not fail the work
            return orjson.dumps({name: ascii(value) for name, value in line.items()}).decode()

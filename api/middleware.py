"""The outermost layer of every request: its trace, its line in the log, and the answer to unforeseen errors.

It is plain ASGI: a stream passes through one function call per chunk, no task and no copy.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable
from typing import Final

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.problems import as_chat_error, problem_response
from shared.logs import log_context
from shared.trace import TraceContext, current_trace

_log: Final = logging.getLogger("api.access")


class RequestMiddleware:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        trace = TraceContext.from_header(Headers(scope=scope).get("traceparent"))
        # Set, not added to: a server may start a request in the context of the one before it.
        log_context.set({"trace_id": trace.trace_id})
        current_trace.set(trace)
        exchange = _Exchange(send)
        try:
            await self._app(scope, receive, exchange.send)
        except ClientDisconnect:
            return  # nobody is left to answer
        except Exception as error:
            answer = problem_response(as_chat_error(error), scope)
            if exchange.status is not None:
                raise  # too late for an answer: the server cuts the connection
            await answer(scope, receive, exchange.send)
        finally:
            exchange.log(scope)


class _Exchange:
    """A request on its way: when it began, and the status of its answer once there is one."""

    __slots__ = ("_began", "_send", "status")

    def __init__(self, send: Send) -> None:
        self._send = send
        self._began = time.monotonic()
        self.status: int | None = None

    def send(self, message: Message) -> Awaitable[None]:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        return self._send(message)

    def log(self, scope: Scope) -> None:
        _log.info(
            "%s %s",
            scope["method"],
            scope["path"],
            extra={
                "http_status": self.status,
                "duration_ms": round((time.monotonic() - self._began) * 1_000, 1),
            },
        )

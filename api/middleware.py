"""The layers around every request: its trace, its line in the log, safe headers, the answer to unforeseen errors.

They are plain ASGI: a stream passes through one function call per chunk, no task and no copy.

A long stream is not conducted where it was asked for, in the depth of a dozen calls, each with its request, scopes and
wrappers, which would all live as long as the client stays. The route's response only leaves word of what is to be done
(`conduct`); once the framework has returned, `Foyer`, the outermost layer, does it, and writes straight to the server.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Collection
from http import HTTPStatus
from typing import Final

from opentelemetry.trace import Span, SpanKind
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.problems import as_chat_error, problem_response
from api.safe_headers import add_safe_headers
from shared.logs import log_context
from shared.trace import fail, make_current, received, start_span, trace_id_of, unrecorded_span

_log: Final = logging.getLogger("api.access")

_VISITOR: Final = "mini_chat.visitor"
_KEPT: Final = frozenset({"type", "method", "path", "raw_path", "http_version"})

Work = Callable[[Receive, Send], Awaitable[None]]


async def conduct(scope: Scope, receive: Receive, send: Send, work: Work) -> None:
    """Do `work` as soon as the framework has let go of the request; at once if nobody waits for it."""
    visitor: _Visitor | None = scope.get(_VISITOR)
    if visitor is None:
        await work(receive, send)
    else:
        visitor.work = work


class Foyer:
    """Around the whole application: conducts what routes have left to it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope[_VISITOR] = visitor = _Visitor()
        received = scope["headers"]
        await self._app(scope, receive, send)
        work, exchange = visitor.work, visitor.exchange
        if work is None or exchange is None:
            return
        # Server and task hold on to the scope: what it has gathered, and the caller's token, need not stay.
        for name in scope.keys() - _KEPT:
            del scope[name]
        if isinstance(received, list):
            received.clear()
        del visitor, received
        await exchange.conduct(work(receive, send), scope, receive)


class _Visitor:
    """A request on its way through the framework, and what it wants done afterwards."""

    __slots__ = ("exchange", "work")

    def __init__(self) -> None:
        self.exchange: _Exchange | None = None
        self.work: Work | None = None


class RequestMiddleware:
    def __init__(self, app: ASGIApp, *, probes: Collection[str] = ()) -> None:
        """
        Args:
            probes: paths that are asked for all the time and tell nobody anything while all is well: they get no span,
                and their line in the log only at level debug.
        """
        self._app = app
        self._probes = probes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_probe = scope["path"] in self._probes
        if is_probe:
            span = unrecorded_span()
        else:
            caller = received(Headers(scope=scope).get("traceparent"))
            span = start_span(scope["method"], within=caller, kind=SpanKind.SERVER)
        # Set, not added to: a server may start a request in the context of the one before it.
        log_context.set({"trace_id": trace_id_of(span), "processing_stage": "request"})
        make_current(span)
        exchange = _Exchange(send, span, visitor=scope.get(_VISITOR), is_probe=is_probe)
        await exchange.conduct(self._app(scope, receive, exchange.send), scope, receive)


class _Exchange:
    """A request on its way: when it began, and the status of its answer once there is one."""

    __slots__ = ("_began", "_is_probe", "_send", "_span", "_visitor", "status")

    def __init__(self, send: Send, span: Span, *, visitor: _Visitor | None, is_probe: bool) -> None:
        self._send = send
        self._span = span
        self._visitor = visitor
        self._is_probe = is_probe
        self._began = time.monotonic()
        self.status: int | None = None

    def send(self, message: Message) -> Awaitable[None]:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message = {**message, "headers": add_safe_headers(message.get("headers", ()))}
        return self._send(message)

    async def conduct(self, work: Awaitable[None], scope: Scope, receive: Receive) -> None:
        """Await `work`, answer what it raises, and close the request, unless there is more to be done for it."""
        try:
            await work
        except ClientDisconnect:
            return  # nobody is left to answer
        except Exception as error:
            self._visitor = None  # whatever was left to be done, this is the end
            answer = problem_response(as_chat_error(error), scope)
            if self.status is not None:
                raise  # too late for an answer: the server cuts the connection
            await answer(scope, receive, self.send)
        finally:
            self._finish(scope)

    def _finish(self, scope: Scope) -> None:
        visitor, self._visitor = self._visitor, None
        if self._span.is_recording() and (route := scope.get("route")) is not None:
            self._span.update_name(f"{scope['method']} {route.path}")
            self._span.set_attributes({"http.request.method": scope["method"], "http.route": route.path})
        if visitor is not None and visitor.work is not None:
            visitor.exchange = self
            return
        self._end_span()
        outcome = self._outcome()
        level = logging.DEBUG if self._is_probe and outcome == "ok" else logging.INFO
        if not _log.isEnabledFor(level):
            return
        fields = {"http_status": self.status, "duration_ms": round((time.monotonic() - self._began) * 1_000, 1)}
        _log.log(
            level, "%s %s", scope["method"], scope["path"], extra={"status": outcome, **log_context.get(), **fields}
        )

    def _outcome(self) -> str:
        """Unless whoever answered has said it."""
        if self.status is None:
            return "cancelled"  # the client has left before there was an answer
        return "ok" if self.status < HTTPStatus.BAD_REQUEST else "error"

    def _end_span(self) -> None:
        if self.status is not None:
            self._span.set_attribute("http.response.status_code", self.status)
            if self.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                fail(self._span, str(self.status))
        self._span.end()

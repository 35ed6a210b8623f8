"""The layers around a request: what a route leaves to be conducted, and what they do when it fails."""

from __future__ import annotations

import logging
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.middleware import Foyer, RequestMiddleware, conduct
from api.problems import install_handlers
from api.safe_headers import add_safe_headers

START: Message = {"type": "http.response.start", "status": 200, "headers": []}


class Watched:
    """Around an application, as a server is: what it was handed, and whether it has returned."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.scope: Scope = {}
        self.send: Send | None = None
        self.has_returned = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope, self.send = scope, send
        await self._app(scope, receive, send)
        self.has_returned = True


class LongAnswer(Response):
    """Starts through the framework, and writes the rest to whoever conducts it."""

    def __init__(self, inner: list[Watched], *, fails: str = "") -> None:
        super().__init__()
        self.inner = inner
        self.fails = fails
        self.was_in_framework: bool | None = None
        self.body_send: Send | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def work(receive: Receive, body_send: Send) -> None:
            self.was_in_framework = bool(self.inner) and not self.inner[0].has_returned
            self.body_send = body_send
            if self.fails == "before":
                raise ValueError("a secret")
            await send(START)
            if self.fails == "after":
                raise ValueError("a secret")
            await body_send({"type": "http.response.body", "body": b"text", "more_body": False})

        await conduct(scope, receive, send, work)


def application(answer: LongAnswer) -> Watched:
    app = FastAPI()
    install_handlers(app)
    app.add_middleware(RequestMiddleware)
    app.add_middleware(CORSMiddleware, allow_origins=["https://a.example"])

    @app.get("/long")
    async def get_long(request: Request) -> Response:
        return answer

    framework = Watched(app.build_middleware_stack())
    answer.inner.append(framework)
    return Watched(Foyer(framework))


async def ask(app: ASGIApp) -> httpx.Response:
    headers = {"Origin": "https://a.example", "Authorization": "Bearer a-token"}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://api") as client:
        return await client.get("/long", headers=headers)


async def test_a_long_answer_is_conducted_outside_the_framework(caplog: pytest.LogCaptureFixture) -> None:
    """With what the middlewares add to its start, one line in the log, and nothing kept that only they needed."""
    caplog.set_level(logging.INFO, "api.access")
    answer = LongAnswer([])
    server = application(answer)
    response = await ask(server)
    assert (response.status_code, response.text) == (200, "text")
    assert response.headers["access-control-allow-origin"] == "https://a.example"
    assert answer.was_in_framework is False
    assert answer.body_send is server.send
    assert set(server.scope) <= {"type", "method", "path", "raw_path", "http_version"}
    assert [(_field(record, "http_status"), record.message) for record in caplog.records] == [(200, "GET /long")]


async def test_a_failure_before_the_start_is_answered_as_any_other(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "api.access")
    response = await ask(application(LongAnswer([], fails="before")))
    assert (response.status_code, response.json()["code"]) == (500, "internal_error")
    assert "a secret" not in response.text
    assert response.headers["access-control-allow-origin"] == "https://a.example"
    accessed = [record for record in caplog.records if record.name == "api.access"]
    assert [_field(record, "http_status") for record in accessed] == [500]


async def test_probes_are_logged_at_level_debug_while_all_is_well(caplog: pytest.LogCaptureFixture) -> None:
    """Balancers ask every few seconds; that they were answered tells nobody anything."""
    is_well = True
    app = FastAPI()
    app.add_middleware(RequestMiddleware, probes={"/readyz"})

    @app.get("/readyz")
    async def get_readiness() -> Response:
        return Response(status_code=200 if is_well else 503)

    caplog.set_level(logging.DEBUG, "api.access")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://api") as client:
        await client.get("/readyz")
        is_well = False
        await client.get("/readyz")
    accessed = [
        (record.levelname, _field(record, "status")) for record in caplog.records if record.name == "api.access"
    ]
    assert accessed == [("DEBUG", "ok"), ("INFO", "error")]


async def test_a_failure_after_the_start_rises_to_the_server() -> None:
    """Which cuts the connection: the client must not take what it has got for the whole."""
    with pytest.raises(ValueError, match="a secret"):
        await ask(application(LongAnswer([], fails="after")))


async def test_without_a_foyer_it_is_conducted_at_once() -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    await LongAnswer([])({"type": "http"}, receive, send)
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]


def test_a_header_that_an_answer_brings_along_is_not_said_twice() -> None:
    """The page has some of its own."""
    own = (b"X-Content-Type-Options", b"nosniff")
    headers = add_safe_headers([own])
    names = [name.lower() for name, _ in headers]
    assert len(names) == len(set(names)) == 4
    assert own in headers


async def test_other_protocols_pass_through() -> None:
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    async def nothing(*_: Any) -> Any:
        return {}

    await Foyer(app)({"type": "lifespan"}, nothing, nothing)
    assert seen == ["lifespan"]


def _field(record: logging.LogRecord, name: str) -> Any:
    return getattr(record, name, None)

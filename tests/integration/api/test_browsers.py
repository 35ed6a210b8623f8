"""What web pages may do with the API: those of its own origin, those that are allowed, and all others."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from sqlalchemy import update

from shared.clock import SystemClock
from shared.ids import new_uuid4
from shared.settings import Settings
from shared.turns.tables import Turn
from tests.integration.api.rows import store_running_turn
from tests.support.api import RunningApi, running_api
from tests.support.problems import assert_problem
from tests.support.tokens import Caller
from tests.support.turns import create_chat, events_path

PAGE = "https://chat.example"
NO_CONTENT = "default-src 'none'; frame-ancestors 'none'"


@asynccontextmanager
async def changed(settings: Settings, group: str, **changes: Any) -> AsyncIterator[RunningApi]:
    value = getattr(settings, group).model_copy(update=changes)
    async with running_api(settings.model_copy(update={group: value})) as api:
        yield api


def preflight(method: str, headers: str, *, origin: str = PAGE) -> dict[str, str]:
    return {"Origin": origin, "Access-Control-Request-Method": method, "Access-Control-Request-Headers": headers}


async def test_every_answer_is_private_and_is_what_it_says_it_is(
    api: RunningApi, client: httpx.AsyncClient, ann: Caller
) -> None:
    chat_id = await create_chat(client)
    answers = [
        await client.get("/chats"),
        await client.get(f"/chats/{new_uuid4()}"),
        await client.get("/nowhere"),
        await client.delete(f"/chats/{chat_id}"),
        await client.get("/chats", headers={"Authorization": ""}),
    ]
    assert [answer.status_code for answer in answers] == [200, 404, 404, 204, 401]
    for answer in answers:
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["content-security-policy"] == NO_CONTENT
        assert "server" not in answer.headers


async def test_cors_is_off_by_default(client: httpx.AsyncClient) -> None:
    answer = await client.get("/chats", headers={"Origin": PAGE})
    assert answer.status_code == 200
    asked = await client.options("/chats", headers=preflight("POST", "authorization, content-type"))
    assert_problem(asked, 405, "method_not_allowed")
    assert not any(name.startswith("access-control") for name in (*answer.headers, *asked.headers))


async def test_an_allowed_page_may_ask_resume_and_read_what_it_needs(settings: Settings, ann: Caller) -> None:
    async with changed(settings, "cors", allow_origins=(PAGE,)) as api, api.client(ann) as client:
        for method, headers in (
            ("POST", "authorization, content-type, last-event-id, traceparent"),
            ("GET", "authorization, last-event-id"),
            ("PATCH", "authorization, content-type"),
            ("DELETE", "authorization"),
            ("PUT", "authorization, content-type"),
        ):
            asked = await client.options("/chats", headers=preflight(method, headers))
            assert asked.status_code == 200
            assert asked.headers["access-control-allow-origin"] == PAGE
            assert method in asked.headers["access-control-allow-methods"]
            assert set(headers.split(", ")) <= set(asked.headers["access-control-allow-headers"].lower().split(", "))
            # Tokens are sent on purpose, never by the browser on its own: a cookie is not taken across origins.
            assert "access-control-allow-credentials" not in asked.headers
        answer = await client.get("/nowhere", headers={"Origin": PAGE})
        assert answer.headers["access-control-allow-origin"] == PAGE
        exposed = answer.headers["access-control-expose-headers"].split(", ")
        assert {"Retry-After", "RateLimit", "RateLimit-Policy", "Location"} <= set(exposed)


async def test_a_page_that_is_not_allowed_learns_nothing(settings: Settings, ann: Caller) -> None:
    async with changed(settings, "cors", allow_origins=(PAGE,)) as api, api.client(ann) as client:
        asked = await client.options(
            "/chats", headers=preflight("GET", "authorization", origin="https://other.example")
        )
        assert asked.status_code == 400
        answer = await client.get("/chats", headers={"Origin": "https://other.example"})
        assert "access-control-allow-origin" not in asked.headers.keys() | answer.headers.keys()


async def test_a_stream_keeps_its_headers_and_may_be_resumed_across_origins(settings: Settings, ann: Caller) -> None:
    async with changed(settings, "cors", allow_origins=(PAGE,)) as api, api.client(ann) as client:
        chat_id = await create_chat(client)
        request_id = await store_running_turn(api.context.sessions, chat_id, ann)
        async with api.context.sessions.begin() as session:
            ended = {"state": "failed", "error_code": "provider_error", "completed_at": SystemClock().now()}
            await session.execute(update(Turn).where(Turn.request_id == request_id).values(ended))
        headers = {"Origin": PAGE, "Last-Event-ID": "s-1"}
        answer = await client.get(events_path(chat_id, request_id), headers=headers)
        assert answer.text.startswith("id: s-2\nevent: error\n")
        assert answer.headers["access-control-allow-origin"] == PAGE
        assert answer.headers["cache-control"] == "no-cache, no-transform"
        assert answer.headers["x-accel-buffering"] == "no"
        assert answer.headers["x-content-type-options"] == "nosniff"


LOCAL = ("localhost", "localhost:8080", "127.0.0.1:8080", "127.8.8.8", "[::1]:8080", "a.localhost", "localhost.:8080")
FOREIGN = ("evil.example", "evil.example:8080", "localhost.evil.example", "10.0.0.1", "", "[::1")


@pytest.mark.parametrize("host", LOCAL)
async def test_a_development_server_answers_to_its_own_name(settings: Settings, host: str) -> None:
    async with changed(settings, "auth", mode="dev") as api, api.client() as client:
        for origin in ({}, {"Origin": f"http://{host}"}, {"Origin": "http://localhost:5173"}):
            assert (await client.get("/chats", headers={"Host": host, **origin})).status_code == 200


@pytest.mark.parametrize("host", FOREIGN)
async def test_a_development_server_cannot_be_rebound(settings: Settings, host: str) -> None:
    async with changed(settings, "auth", mode="dev") as api, api.client() as client:
        for method, path in (("GET", "/chats"), ("POST", f"/chats/{new_uuid4()}/turns/{new_uuid4()}/retry")):
            answer = await client.request(method, path, headers={"Host": host})
            assert_problem(answer, 403, "insufficient_permissions")


@pytest.mark.parametrize("origin", [PAGE, "null", "http://localhost.evil.example", "nonsense", "http://[::1"])
async def test_a_page_of_another_site_cannot_use_a_development_server(settings: Settings, origin: str) -> None:
    """Not even blindly, by requests that need no preflight."""
    async with changed(settings, "auth", mode="dev") as api, api.client() as client:
        answer = await client.post(f"/chats/{new_uuid4()}/turns/{new_uuid4()}/cancel", headers={"Origin": origin})
        assert_problem(answer, 403, "insufficient_permissions")


async def test_an_allowed_page_may_use_a_development_server(settings: Settings) -> None:
    with_page = settings.model_copy(update={"cors": settings.cors.model_copy(update={"allow_origins": (PAGE,)})})
    async with changed(with_page, "auth", mode="dev") as api, api.client() as client:
        assert (await client.get("/chats", headers={"Origin": PAGE})).status_code == 200


async def test_on_any_host_a_development_server_is_whatever_it_is_called(settings: Settings) -> None:
    async with changed(settings, "auth", mode="dev", dev_on_any_host=True) as api, api.client() as client:
        assert (await client.get("/chats", headers={"Host": "chat.internal"})).status_code == 200


async def test_with_tokens_any_name_will_do(client: httpx.AsyncClient) -> None:
    answer = await client.get("/chats", headers={"Host": "chat.example", "Origin": "https://other.example"})
    assert answer.status_code == 200

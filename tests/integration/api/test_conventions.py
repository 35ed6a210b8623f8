"""What holds for every request: credentials, permissions, bodies, problems, traces, health, the document."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI
from fastapi.routing import APIRoute, iter_route_contexts
from openapi_spec_validator import validate
from redis.exceptions import ConnectionError as RedisConnectionError
from starlette.types import Message

from api.auth import Action, Principal
from api.dependencies import require
from api.json_route import MAX_BODY_BYTES, JsonRoute
from api.main import create_app
from shared.clock import SystemClock
from shared.errors import ThrottledError
from shared.ids import new_uuid4
from shared.outbox.dead_letters import DeadLetters
from shared.outbox.tables import OutboxDeadLetter
from shared.settings import Settings
from tests.support.api import BASE, RunningApi, api_settings, running_api
from tests.support.problems import assert_problem
from tests.support.tokens import Caller, claims_of, sign

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
JSON = {"Content-Type": "application/json"}


@pytest.fixture
async def anonymous(api: RunningApi) -> AsyncIterator[httpx.AsyncClient]:
    async with api.client() as client:
        yield client


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Bearer x.y.z", "Basic dXNlcjpwYXNz"])
async def test_without_a_good_token_nothing_is_told(anonymous: httpx.AsyncClient, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header}
    for method, path in (("GET", "/chats"), ("GET", "/chats/nonsense"), ("POST", "/chats"), ("GET", "/models")):
        answer = await anonymous.request(method, path, headers=headers)
        assert_problem(answer, 401, "unauthenticated")
        assert answer.headers["www-authenticate"] == "Bearer"


async def test_a_body_is_not_even_read_without_a_good_token(anonymous: httpx.AsyncClient) -> None:
    assert_problem(await anonymous.post("/chats", content=b"{broken", headers=JSON), 401, "unauthenticated")


async def test_a_cookie_counts_only_where_it_is_asked_for(api: RunningApi, ann: Caller) -> None:
    router = APIRouter()

    @router.get("/events")
    async def read_events(
        caller: Annotated[Principal, Depends(require(Action.READ_TURN, with_cookie=True))],
    ) -> bool:
        return caller.user_id == ann.user_id

    api.app.include_router(router, prefix=BASE)
    token = ann.headers["Authorization"].removeprefix("Bearer ")
    async with api.client() as client:
        client.cookies.set("mini_chat_token", token)
        assert (await client.get("/events")).json() is True
        assert_problem(await client.get("/chats"), 401, "unauthenticated")
        wrong = await client.get("/events", headers={"Authorization": "Bearer nonsense"})
        assert_problem(wrong, 401, "unauthenticated")


async def test_a_missing_permission_is_told_only_where_there_is_nothing_to_hide(
    api: RunningApi, client: httpx.AsyncClient, ann: Caller
) -> None:
    chat_id = (await client.post("/chats", json={})).json()["id"]
    reader = Caller(ann.tenant_id, ann.user_id, scope="ai:mini_chat:read")
    async with api.client(reader) as reading:
        assert (await reading.get(f"/chats/{chat_id}")).status_code == 200
        assert_problem(await reading.post("/chats", json={}), 403, "insufficient_permissions")
        assert_problem(await reading.delete(f"/chats/{chat_id}"), 404, "chat_not_found")
        assert_problem(await reading.patch(f"/chats/{chat_id}", json={"title": "x"}), 404, "chat_not_found")
    async with api.client(Caller(ann.tenant_id, ann.user_id, scope="openid")) as nobody:
        for path in ("/chats", "/models", "/models/gpt-5.2"):
            assert_problem(await nobody.get(path), 403, "insufficient_permissions")
        assert_problem(await nobody.get(f"/chats/{chat_id}"), 404, "chat_not_found")


async def test_a_tenant_without_the_feature_is_told_so(settings: Settings, ann: Caller) -> None:
    licensed = settings.model_copy(update={"auth": settings.auth.model_copy(update={"license_feature": "ai_chat"})})
    async with running_api(licensed) as api, api.client() as client:
        assert_problem(await client.get("/models", headers=ann.headers), 403, "feature_not_licensed")
        token = sign(claims_of(ann.tenant_id, ann.user_id, features=["ai_chat"]))
        answer = await client.get("/models", headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == 200


async def test_dev_mode_needs_no_token(settings: Settings) -> None:
    dev = settings.model_copy(update={"auth": settings.auth.model_copy(update={"mode": "dev"})})
    async with running_api(dev) as api, api.client() as client:
        assert (await client.post("/chats", json={})).status_code == 201
        assert len((await client.get("/chats")).json()["items"]) == 1


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"nonsense",
        b"[]",
        b"null",
        b'"text"',
        b"\xff\xfe{}",
        b'{"title": "\xff"}',
        b'{"title": "\xed\xa0\x80"}',
        b'{"title": "\\ud800"}',
        b'{"title": "\\udc00\\ud800"}',
        b'{"title": "\\u0000"}',
        b'{"title": "x\\\\\\u0000"}',
        b'{"ignored": {"deep": ["\\u0000"]}}',
        b'{"\\u0000": 1}',
        b"[" * 100_000,
    ],
)
async def test_a_body_that_is_not_good_json_is_invalid(client: httpx.AsyncClient, body: bytes) -> None:
    assert_problem(await client.post("/chats", content=body, headers=JSON), 400, "invalid_request")


async def test_text_that_only_looks_dangerous_is_kept(client: httpx.AsyncClient) -> None:
    body = b'{"title": "\\\\u0000 \\u2028 \\ud83d\\ude00"}'
    answer = await client.post("/chats", content=body, headers=JSON)
    assert answer.json()["title"] == "\\u0000 \N{LINE SEPARATOR} \N{GRINNING FACE}"


async def test_a_body_must_be_declared_as_json(client: httpx.AsyncClient) -> None:
    """Else any web page could post to a development server, which asks for no token."""
    for media_type in ("text/plain", "application/x-www-form-urlencoded"):
        answer = await client.post("/chats", content=b"{}", headers={"Content-Type": media_type})
        [error] = assert_problem(answer, 400, "invalid_request")["errors"]
        assert "application/json" in error["message"]


async def test_errors_speak_of_json(client: httpx.AsyncClient) -> None:
    """And not of the types of Python that would have been made of it."""
    [error] = assert_problem(await client.post("/chats", json=[]), 400, "invalid_request")["errors"]
    assert error == {"field": "body", "message": "must be an object"}
    body = {"content": "x", "attachment_ids": "y", "web_search": True, "request_id": 1}
    answer = await client.post(f"/chats/{new_uuid4()}/messages:stream", json=body)
    assert assert_problem(answer, 400, "invalid_request")["errors"] == [
        {"field": "request_id", "message": "must be a hyphenated UUID"},
        {"field": "attachment_ids", "message": "must be an array"},
        {"field": "web_search", "message": "must be an object"},
    ]


async def test_a_long_list_of_bad_members_is_one_error(client: httpx.AsyncClient) -> None:
    """One for each would be an answer, and work for the process, many times the size of the request."""
    for bad in (["x"] * 100_000, [str(new_uuid4())] * 1_001):
        body = {"content": "x", "attachment_ids": bad}
        answer = await client.post(f"/chats/{new_uuid4()}/messages:stream", json=body)
        assert assert_problem(answer, 400, "invalid_request")["errors"] == [
            {"field": "attachment_ids", "message": "must have at most 1000 members"}
        ]


async def test_errors_name_the_member_and_never_repeat_the_input(client: httpx.AsyncClient) -> None:
    answer = await client.post("/chats", json={"title": ["swordfish"], "model": {"a": "swordfish"}})
    problem = assert_problem(answer, 400, "invalid_request")
    assert [error["field"] for error in problem["errors"]] == ["title", "model"]
    assert "swordfish" not in answer.text


async def test_a_declared_body_over_the_limit_is_refused_unread(client: httpx.AsyncClient) -> None:
    headers = JSON | {"Content-Length": str(MAX_BODY_BYTES + 1)}

    was_read = False

    async def body() -> AsyncIterator[bytes]:
        nonlocal was_read
        was_read = True
        yield b"{}"

    assert_problem(await client.post("/chats", content=body(), headers=headers), 413, "payload_too_large")
    assert not was_read


async def test_a_chunked_body_is_cut_off_at_the_limit(client: httpx.AsyncClient) -> None:
    sent = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1
            yield b" " * 1024 * 1024

    assert_problem(await client.post("/chats", content=body(), headers=JSON), 413, "payload_too_large")
    assert sent == 17


async def test_a_body_at_the_limit_is_read(client: httpx.AsyncClient) -> None:
    body = b'{"ignored": "' + b"x" * (MAX_BODY_BYTES - 15) + b'"}'
    assert len(body) == MAX_BODY_BYTES
    assert (await client.post("/chats", content=body, headers=JSON)).status_code == 201


async def test_unknown_paths_and_methods(client: httpx.AsyncClient) -> None:
    for path in ("/nonsense", "/chats/", "/"):
        assert_problem(await client.get(path), 404, "not_found")
    answer = await client.put("/chats")
    assert_problem(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "GET, POST"
    answer = await client.post(f"/chats/{new_uuid4()}")
    assert answer.headers["allow"] == "DELETE, GET, PATCH"


async def test_the_trace_of_the_caller_goes_on(client: httpx.AsyncClient) -> None:
    headers = {"traceparent": f"00-{TRACE_ID}-00f067aa0ba902b7-01"}
    assert (await client.get("/nonsense", headers=headers)).json()["trace_id"] == TRACE_ID
    headers = {"traceparent": f"00-{TRACE_ID}-0000000000000000-01"}
    assert (await client.get("/nonsense", headers=headers)).json()["trace_id"] != TRACE_ID


async def test_retry_after(api: RunningApi, client: httpx.AsyncClient) -> None:
    _fail_at(api.app, "/slow", ThrottledError(retry_after_secs=7))
    answer = await client.get("/slow")
    assert_problem(answer, 429, "rate_limited")
    assert answer.headers["retry-after"] == "7"


async def test_an_unforeseen_error_is_hidden_and_logged(
    api: RunningApi, client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    _fail_at(api.app, "/broken", RuntimeError("swordfish"))
    answer = await client.get("/broken")
    problem = assert_problem(answer, 500, "internal_error")
    assert problem["detail"] == "An internal error occurred"
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.exc_info
    assert "swordfish" in str(record.exc_info[1])


@pytest.mark.parametrize("error", [RedisConnectionError(), ConnectionRefusedError(), TimeoutError()])
async def test_a_server_that_is_away_is_worth_a_retry(
    api: RunningApi, client: httpx.AsyncClient, error: Exception
) -> None:
    _fail_at(api.app, "/away", error)
    answer = await client.get("/away")
    assert_problem(answer, 503, "service_unavailable")
    assert int(answer.headers["retry-after"]) > 0


async def test_without_engines_the_process_lives_and_is_not_ready(settings: Settings, ann: Caller) -> None:
    nowhere = api_settings(
        database_url="postgresql://nobody@127.0.0.1:9/none", valkey_url="redis://127.0.0.1:9/0"
    ).model_copy(update={"catalog": settings.catalog})
    async with (
        running_api(nowhere, has_valkey=False) as api,
        api.client(ann) as client,
        api.client(base_path="") as root,
    ):
        assert (await root.get("/healthz")).json() == {"status": "ok"}
        readiness = await root.get("/readyz")
        assert readiness.status_code == 503
        assert readiness.json() == {
            "status": "unavailable",
            "checks": {
                "postgresql": "failed",
                "migrations": "failed",
                "redis": "failed",
                "catalog": "failed",
                "accepting": "ok",
                "usage_delivery": "degraded",
            },
        }
        assert_problem(await client.get("/chats"), 503, "service_unavailable")
        assert (await client.get("/models")).status_code == 200


async def test_health_may_be_asked_for_without_its_body(api: RunningApi) -> None:
    async with api.client(base_path="") as root:
        for path in ("/healthz", "/readyz"):
            answer = await root.head(path)
            assert (answer.status_code, answer.content) == (200, b"")


async def test_readiness_ends_with_draining(api: RunningApi) -> None:
    async with api.client(base_path="") as root:
        assert (await root.get("/readyz")).json()["status"] == "ok"
        api.context.draining.set()
        answer = await root.get("/readyz")
        assert (answer.status_code, answer.json()["checks"]["accepting"]) == (503, "failed")


async def test_usage_that_could_not_be_delivered_makes_a_process_degraded(api: RunningApi) -> None:
    """Somebody has to look, but it serves."""
    now = SystemClock().now()
    columns = {"queue": "usage_snapshot", "partition_key": "k", "payload_type": "t", "payload": {}, "created_at": now}
    async with api.context.sessions.begin() as session:
        session.add(OutboxDeadLetter(id=1, failed_at=now, **columns))
    async with api.client(base_path="") as root:
        answer = await root.get("/readyz")
        assert (answer.status_code, answer.json()["status"]) == (200, "degraded")
        assert answer.json()["checks"]["usage_delivery"] == "degraded"
        async with api.context.sessions.begin() as session:
            await DeadLetters(session).resolve(ids=[1])
        assert (await root.get("/readyz")).json()["status"] == "ok"


async def test_a_catalog_file_that_is_refused_makes_a_process_degraded(api: RunningApi) -> None:
    """What somebody wanted is not in force, and the process serves by what was."""
    async with api.client(base_path="") as root:
        api.context.catalog.is_file_refused = True
        answer = await root.get("/readyz")
        assert (answer.status_code, answer.json()["status"]) == (200, "degraded")
        assert answer.json()["checks"]["catalog"] == "degraded"
        api.context.catalog.is_file_refused = False
        assert (await root.get("/readyz")).json()["status"] == "ok"


async def test_a_stream_passes_through_chunk_by_chunk(api: RunningApi, ann: Caller) -> None:
    """No layer around a response buffers it or asks for its body before it is there."""
    gate, half = asyncio.Event(), asyncio.Event()

    async def endpoint(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"1", "more_body": True})
        await gate.wait()
        await send({"type": "http.response.body", "body": b"2"})

    api.app.mount("/raw", endpoint)
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)
        if message.get("more_body"):
            half.set()

    async def receive() -> Message:
        raise AssertionError("nobody asks")

    scope = {"type": "http", "method": "GET", "path": "/raw/stream", "headers": [], "query_string": b""}
    async with asyncio.TaskGroup() as group:
        group.create_task(api.app(scope, receive, send))
        async with asyncio.timeout(5):
            await half.wait()
        gate.set()
    assert [message.get("body") for message in sent] == [None, b"1", b"2"]


async def test_prefix_and_base_path(settings: Settings, ann: Caller) -> None:
    moved = settings.model_copy(update={"prefix": "/ai", "base_path": "/v9"})
    async with running_api(moved) as api, api.client(ann, base_path="") as client:
        for path in ("/ai/openapi.json", "/ai/healthz", "/ai/readyz", "/ai/v9/chats"):
            assert (await client.get(path)).status_code == 200, path
        created = await client.post("/ai/v9/chats", json={})
        assert created.headers["location"] == f"/ai/v9/chats/{created.json()['id']}"
        assert_problem(await client.get("/ai/v9/chats/x"), 400, "invalid_request")
        assert_problem(await client.get("/mini-chat/v1/chats"), 404, "not_found")


def test_the_document_is_valid_and_complete(settings: Settings) -> None:
    document = create_app(settings).openapi()
    validate(document)
    text = json.dumps(document)
    for word in ("user_id", "tenant_id", "HTTPValidationError"):
        assert word not in text
    for path, operations in document["paths"].items():
        if not path.startswith(BASE):
            continue
        for operation in operations.values():
            assert operation["security"]
            for status, answer in operation["responses"].items():
                if not status.startswith("2"):
                    assert answer["content"].keys() == {"application/problem+json"}, (path, status)


def test_the_document_tells_every_code_of_a_refusal(settings: Settings) -> None:
    paths = create_app(settings).openapi()["paths"]
    turn = f"{BASE}/chats/{{chat_id}}/turns/{{request_id}}"
    sending = {
        400: {"invalid_request", "invalid_attachment", "too_many_images", "images_disabled", "web_search_disabled"},
        404: {"chat_not_found"},
        409: {"request_id_conflict", "generation_in_progress"},
        413: {"payload_too_large", "image_bytes_exceeded"},
        415: {"unsupported_media"},
        422: {"input_too_long", "context_budget_exceeded"},
        429: {"quota_exceeded", "rate_limited"},
        503: {"queue_full", "service_unavailable"},
    }
    finding = {404: {"chat_not_found", "turn_not_found"}}
    changing = finding | {400: {"invalid_turn_state"}, 409: {"not_latest_turn"}}
    told = {
        ("post", f"{BASE}/chats"): [{400: {"invalid_model"}, 403: {"feature_not_licensed"}}],
        ("post", f"{BASE}/chats/{{chat_id}}/messages:stream"): [sending],
        ("get", turn): [finding],
        ("get", f"{turn}/events"): [finding],
        ("post", f"{turn}/cancel"): [finding],
        ("post", f"{turn}/retry"): [sending, changing],
        ("patch", turn): [sending, changing],
        ("delete", turn): [changing],
    }
    for (method, path), refusals in told.items():
        answers = paths[path][method]["responses"]
        for status, codes in (item for refusal in refusals for item in refusal.items()):
            assert codes <= set(answers[str(status)]["description"].split(", ")), (method, path, status)
        assert "Retry-After" in answers["503"]["headers"]
    assert "Location" in paths[f"{BASE}/chats"]["post"]["responses"]["201"]["headers"]


def test_no_parameter_is_null_in_the_document(settings: Settings) -> None:
    """A query cannot hold a null: it would be the text `null`."""
    for path, operations in create_app(settings).openapi()["paths"].items():
        for operation in operations.values():
            for parameter in operation.get("parameters", []):
                assert "null" not in json.dumps(parameter["schema"]), (path, parameter["name"])


async def test_the_document_needs_no_token(api: RunningApi) -> None:
    async with api.client(base_path="") as client:
        document = (await client.get("/openapi.json")).json()
    assert f"{BASE}/chats/{{chat_id}}" in document["paths"]
    assert document["paths"][f"{BASE}/chats"]["post"]["operationId"] == "create_chat"


def test_every_route_with_a_body_reads_it_strictly(settings: Settings) -> None:
    """A plain route would read any number of bytes, from anybody."""
    for context in iter_route_contexts(create_app(settings).routes):
        route = context.original_route
        if isinstance(route, APIRoute) and route.body_field is not None:
            assert isinstance(route, JsonRoute), route.path


def _fail_at(app: FastAPI, path: str, error: Exception) -> None:
    router = APIRouter()

    @router.get(path)
    async def fail() -> None:
        raise error

    app.include_router(router, prefix=BASE)

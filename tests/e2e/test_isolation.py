"""Nobody reaches what is not theirs: every route of the document, with every kind of caller who must not get in.

The routes come from the OpenAPI document: one without a row here fails. What a stranger is told of something that
exists is, to the byte, what everybody is told of something that does not.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import asyncpg
import httpx
import pytest

from api.main import create_app
from shared.clock import SystemClock
from shared.ids import new_uuid4, new_uuid7
from tests.support.api import BASE, api_settings
from tests.support.deployment import Deployment, Process, http_client
from tests.support.problems import assert_problem
from tests.support.tokens import SECRET, Caller, claims_of, sign
from tests.support.turns import ask, create_chat, scripted, wait_for_state

ISSUER, AUDIENCE = "https://id.example", "mini-chat"
TRACEPARENT = f"00-{'4bf92f3577b34da6' * 2}-00f067aa0ba902b7-01"

Ids = dict[str, str]


@dataclass(frozen=True)
class Row:
    """What a route answers its owner, and the request that it takes.

    Attributes:
        status: of success; proves that the ids that strangers are refused are those of something that is there.
        is_read: open to the scope `ai:mini_chat:read`.
        inner: the code for an id below the chat that is not in the chat.
    """

    status: int
    is_read: bool = False
    inner: str | None = None
    request: dict[str, Any] = field(default_factory=dict)


def _json(**body: Any) -> dict[str, Any]:
    return {"json": body}


QUESTION = scripted(text="Yes.", rate=0)
TURN, MESSAGE, ATTACHMENT = "turn_not_found", "message_not_found", "attachment_not_found"
UPLOAD = {"files": {"file": ("notes.txt", b"hello", "text/plain")}}

ROWS: dict[tuple[str, str], Row] = {
    ("POST", "/chats"): Row(201, request=_json()),
    ("GET", "/chats"): Row(200, is_read=True),
    ("GET", "/chats/{chat_id}"): Row(200, is_read=True),
    ("PATCH", "/chats/{chat_id}"): Row(200, request=_json(title="Renamed")),
    ("DELETE", "/chats/{chat_id}"): Row(204),
    ("GET", "/chats/{chat_id}/messages"): Row(200, is_read=True),
    ("POST", "/chats/{chat_id}/messages:stream"): Row(200, request=_json(content=QUESTION)),
    ("GET", "/chats/{chat_id}/turns/{request_id}"): Row(200, is_read=True, inner=TURN),
    ("GET", "/chats/{chat_id}/turns/{request_id}/events"): Row(200, is_read=True, inner=TURN),
    ("POST", "/chats/{chat_id}/turns/{request_id}/cancel"): Row(200, inner=TURN),
    ("POST", "/chats/{chat_id}/turns/{request_id}/retry"): Row(200, inner=TURN),
    ("PATCH", "/chats/{chat_id}/turns/{request_id}"): Row(200, inner=TURN, request=_json(content=QUESTION)),
    ("DELETE", "/chats/{chat_id}/turns/{request_id}"): Row(204, inner=TURN),
    ("POST", "/chats/{chat_id}/attachments"): Row(201, request=UPLOAD),
    ("GET", "/chats/{chat_id}/attachments/{attachment_id}"): Row(200, is_read=True, inner=ATTACHMENT),
    ("DELETE", "/chats/{chat_id}/attachments/{attachment_id}"): Row(204, inner=ATTACHMENT),
    ("PUT", "/chats/{chat_id}/messages/{message_id}/reaction"): Row(200, inner=MESSAGE, request=_json(reaction="like")),
    ("DELETE", "/chats/{chat_id}/messages/{message_id}/reaction"): Row(204, inner=MESSAGE),
    ("GET", "/models"): Row(200, is_read=True),
    ("GET", "/models/{model_id}"): Row(200, is_read=True),
    ("GET", "/quota/status"): Row(200, is_read=True),
}


def _documented() -> list[tuple[str, str]]:
    """Method and path of every route under the base path."""
    settings = api_settings(database_url="postgresql://localhost/none", valkey_url="redis://localhost")
    paths = create_app(settings).openapi()["paths"]
    return [
        (method.upper(), path.removeprefix(BASE))
        for path, operations in paths.items()
        if path.startswith(BASE)
        for method in operations
    ]


ROUTES = _documented()
BELOW_A_CHAT = [route for route in ROUTES if "{chat_id}" in route[1]]
every_route = pytest.mark.parametrize(("method", "path"), ROUTES)


@pytest.fixture(scope="module")
def guarded(product: Deployment) -> Iterator[Process]:
    """A replica that also asks who has issued a token, and for whom."""
    with product.extra_api(AUTH__JWT__ISSUER=ISSUER, AUTH__JWT__AUDIENCE=AUDIENCE) as process:
        yield process


@pytest.fixture
async def anybody(guarded: Process) -> AsyncIterator[httpx.AsyncClient]:
    async with http_client(guarded.url, headers={"traceparent": TRACEPARENT}) as client:
        yield client


@pytest.fixture
async def ids(guarded: Process, caller: Caller, database: asyncpg.Connection) -> Ids:
    """A chat of the caller's with a turn, an answer and a file, and a model that anybody may see."""
    async with http_client(guarded.url, headers=token_of(caller)) as client:
        turn = await ask(client, QUESTION)
        await wait_for_state(client, turn.chat_id, turn.request_id, "done")
    attachment_id = new_uuid7()
    await database.execute(
        "INSERT INTO attachments (id, tenant_id, chat_id, uploaded_by_user_id, filename, content_type, size_bytes,"
        " storage_backend, status, attachment_kind, for_file_search, created_at)"
        " VALUES ($1, $2, $3, $4, 'notes.txt', 'text/plain', 5, 'openai', 'ready', 'document', true, now())",
        attachment_id,
        caller.tenant_id,
        turn.chat_id,
        caller.user_id,
    )
    return {
        "chat_id": turn.chat_id,
        "request_id": turn.request_id,
        "message_id": turn.message_id,
        "attachment_id": str(attachment_id),
        "model_id": "gpt-5.2",
    }


def token_of(caller: Caller, *, key: str = SECRET, **changes: Any) -> dict[str, str]:
    claims = {"scope": caller.scope, "iss": ISSUER, "aud": AUDIENCE} | changes
    return {"Authorization": f"Bearer {sign(claims_of(caller.tenant_id, caller.user_id, **claims), key=key)}"}


def missing(ids: Ids) -> Ids:
    """As many ids of nothing."""
    return {name: value if name == "model_id" else str(new_uuid4()) for name, value in ids.items()}


async def ask_for(
    client: httpx.AsyncClient, method: str, path: str, ids: Ids, headers: dict[str, str]
) -> httpx.Response:
    return await client.request(method, path.format(**ids), headers=headers, **ROWS[method, path].request)


def without(answer: httpx.Response, ids: Ids) -> bytes:
    """The body, with the ids of the path blotted out."""
    body = answer.content
    for value in ids.values():
        body = body.replace(value.encode(), b"-")
    return body


def test_every_route_is_in_the_matrix() -> None:
    assert set(ROUTES) - set(ROWS) == set()


@every_route
async def test_nobody_without_a_token_that_holds(
    anybody: httpx.AsyncClient, ids: Ids, caller: Caller, method: str, path: str
) -> None:
    hour_ago = SystemClock().now() - timedelta(hours=1)
    for headers in (
        {},
        {"Authorization": "Bearer nonsense"},
        {"Cookie": f"mini_chat_token={sign(claims_of(caller.tenant_id, caller.user_id))}"},
        token_of(caller, exp=hour_ago),
        token_of(caller, iss="https://elsewhere.example"),
        token_of(caller, iss=None),
        token_of(caller, aud="other-service"),
        token_of(caller, aud=None),
        token_of(caller, key=SECRET[::-1]),
        token_of(caller, tenant_id=None),
    ):
        answers = [await ask_for(anybody, method, path, some, headers) for some in (ids, missing(ids))]
        for answer in answers:
            assert_problem(answer, 401, "unauthenticated")
            assert answer.headers["www-authenticate"] == "Bearer"


@every_route
async def test_no_stranger_and_no_reader_beyond_reading(
    anybody: httpx.AsyncClient, ids: Ids, caller: Caller, method: str, path: str
) -> None:
    row = ROWS[method, path]
    strangers = (Caller(tenant_id=caller.tenant_id), Caller(user_id=caller.user_id), Caller())
    for stranger in strangers:
        answer = await ask_for(anybody, method, path, ids, token_of(stranger))
        if "{chat_id}" not in path:
            assert answer.status_code == row.status
            assert ids["chat_id"] not in answer.text
            continue
        assert_problem(answer, 404, "chat_not_found")
        nothing = missing(ids)
        of_nothing = await ask_for(anybody, method, path, nothing, token_of(stranger))
        assert without(answer, ids) == without(of_nothing, nothing)
        assert _told(answer) == _told(of_nothing)

    for scope, may in (("ai:mini_chat:read", row.is_read), ("ai:mini_chat:write", not row.is_read), ("openid", False)):
        if may:
            continue
        answer = await ask_for(anybody, method, path, ids, token_of(caller, scope=scope))
        if "{chat_id}" in path:
            assert_problem(answer, 404, "chat_not_found")
            nothing = missing(ids)
            of_nothing = await ask_for(anybody, method, path, nothing, token_of(caller, scope=scope))
            assert without(answer, ids) == without(of_nothing, nothing)
        else:
            assert_problem(answer, 403, "insufficient_permissions")

    # Nothing of all that has changed anything: the owner finds everything as it was.
    scope = "ai:mini_chat:read" if row.is_read else "ai:mini_chat:write"
    answer = await ask_for(anybody, method, path, ids, token_of(caller, scope=scope))
    assert answer.status_code == row.status, answer.text


@pytest.mark.parametrize(("method", "path"), [route for route in BELOW_A_CHAT if route[1].count("{") > 1])
async def test_nothing_of_another_chat_through_a_chat_of_one_s_own(
    anybody: httpx.AsyncClient, ids: Ids, caller: Caller, method: str, path: str
) -> None:
    code = ROWS[method, path].inner
    assert code is not None
    for other in (Caller(), Caller(tenant_id=caller.tenant_id), caller):
        headers = token_of(other)
        async with http_client(str(anybody.base_url).removesuffix(f"{BASE}/"), headers=headers) as client:
            own = await create_chat(client)
        foreign, nothing = ids | {"chat_id": own}, missing(ids) | {"chat_id": own}
        answer = await ask_for(anybody, method, path, foreign, headers)
        of_nothing = await ask_for(anybody, method, path, nothing, headers)
        assert_problem(answer, 404, code)
        assert without(answer, foreign) == without(of_nothing, nothing)


def _told(answer: httpx.Response) -> dict[str, str]:
    """The headers, but for what differs from one answer to the next."""
    return {name: value for name, value in answer.headers.items() if not re.fullmatch("date|content-length", name)}

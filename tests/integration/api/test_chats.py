"""Chats and models as a client sees them."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest
from sqlalchemy import select, update

from shared.attachments.tables import Attachment
from shared.chats.tables import Chat
from shared.clock import SystemClock, rfc3339
from shared.events.log import FAREWELL_MS
from shared.ids import new_uuid4
from shared.outbox.tables import OutboxMessage
from shared.turns.tables import Turn
from shared.valkey.keyspace import TurnKeys
from tests.integration.api.rows import store_attachment, store_running_turn, store_turn
from tests.support.api import RunningApi
from tests.support.catalogs import DISABLED, MINI, NANO, PREMIUM, STANDARD
from tests.support.problems import assert_problem
from tests.support.tokens import Caller

TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


async def create(client: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    answer = await client.post("/chats", json=body)
    assert answer.status_code == 201, answer.text
    chat: dict[str, Any] = answer.json()
    return chat


async def test_01_create_chat_with_defaults(client: httpx.AsyncClient) -> None:
    answer = await client.post("/chats", json={})
    assert answer.status_code == 201
    chat = answer.json()
    assert chat.keys() == {"id", "model", "is_temporary", "message_count", "created_at", "updated_at"}
    assert (chat["model"], chat["message_count"], chat["is_temporary"]) == (PREMIUM, 0, False)
    assert chat["created_at"] == chat["updated_at"]
    assert TIMESTAMP.fullmatch(chat["created_at"])
    assert UUID(chat["id"]).version == 7
    assert answer.headers["location"] == f"/mini-chat/v1/chats/{chat['id']}"


async def test_02_model_and_title_are_echoed(client: httpx.AsyncClient) -> None:
    chat = await create(client, model=MINI, title="  On  tides \n", something_else=1)
    assert (chat["model"], chat["title"]) == (MINI, "On  tides")


@pytest.mark.parametrize("model", ["nonsense", DISABLED, ""])
async def test_03_a_model_that_cannot_be_used_is_invalid(client: httpx.AsyncClient, model: str) -> None:
    assert_problem(await client.post("/chats", json={"model": model}), 400, "invalid_model")


async def test_04_get_chat(client: httpx.AsyncClient) -> None:
    chat = await create(client, title="One")
    assert (await client.get(f"/chats/{chat['id']}")).json() == chat
    assert (await client.get(f"/chats/{chat['id'].upper()}")).json() == chat
    assert_problem(await client.get(f"/chats/{new_uuid4()}"), 404, "chat_not_found")


@pytest.mark.parametrize(
    "chat_id", ["nonsense", "0" * 32, "{01a20547-7913-7261-89f3-64f5db65bf76}", f"urn:uuid:{'0' * 32}", "%00"]
)
async def test_a_malformed_id_is_invalid(client: httpx.AsyncClient, chat_id: str) -> None:
    assert_problem(await client.get(f"/chats/{chat_id}"), 400, "invalid_request")


async def test_05_the_list_shows_live_chats_by_activity(
    client: httpx.AsyncClient, api: RunningApi, ann: Caller
) -> None:
    chats = [await create(client, title=str(number)) for number in range(5)]
    async with api.client(Caller(tenant_id=ann.tenant_id)) as colleague:
        await create(colleague)
    await client.patch(f"/chats/{chats[0]['id']}", json={"title": "touched"})
    await client.delete(f"/chats/{chats[3]['id']}")
    expected = [chats[number]["id"] for number in (0, 4, 2, 1)]

    everything = (await client.get("/chats")).json()
    assert [chat["id"] for chat in everything["items"]] == expected
    assert everything["page_info"] == {"limit": 20, "next_cursor": None, "prev_cursor": None}

    first = (await client.get("/chats", params={"limit": 2})).json()
    assert first["page_info"]["limit"] == 2
    assert first["page_info"]["prev_cursor"] is None
    second = (await client.get("/chats", params={"limit": 2, "cursor": first["page_info"]["next_cursor"]})).json()
    assert [chat["id"] for chat in first["items"] + second["items"]] == expected
    assert second["page_info"]["next_cursor"] is None
    back = (await client.get("/chats", params={"limit": 2, "cursor": second["page_info"]["prev_cursor"]})).json()
    assert back["items"] == first["items"]


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=x", "limit=-1", "cursor=garbage", "$filter=id eq 'x'", "$top=1", "limit=1&limit=2"]
)
async def test_05_a_bad_list_query_is_invalid(client: httpx.AsyncClient, query: str) -> None:
    assert_problem(await client.get(f"/chats?{query}"), 400, "invalid_request")


async def test_05_a_large_limit_is_clamped(client: httpx.AsyncClient) -> None:
    assert (await client.get("/chats?limit=1000")).json()["page_info"]["limit"] == 100


async def test_06_rename(client: httpx.AsyncClient) -> None:
    chat = await create(client, title="Old")
    answer = await client.patch(f"/chats/{chat['id']}", json={"title": " New ", "model": NANO})
    assert answer.status_code == 200
    renamed = answer.json()
    assert renamed["updated_at"] > chat["updated_at"]
    assert renamed == chat | {"title": "New", "updated_at": renamed["updated_at"]}
    assert_problem(await client.patch(f"/chats/{new_uuid4()}", json={"title": "New"}), 404, "chat_not_found")


@pytest.mark.parametrize("body", [{"title": " "}, {"title": "x" * 256}, {}, {"title": None}, {"title": 5}, []])
async def test_06_a_bad_title_is_invalid(client: httpx.AsyncClient, body: object) -> None:
    chat = await create(client)
    problem = assert_problem(await client.patch(f"/chats/{chat['id']}", json=body), 400, "invalid_request")
    assert problem["errors"]


async def test_06_a_title_may_have_255_characters(client: httpx.AsyncClient) -> None:
    title = "\N{GRINNING FACE}" * 255
    assert (await create(client, title=f" {title} "))["title"] == title


async def test_06_updated_at_moves_forward_even_when_the_clock_is_behind(
    client: httpx.AsyncClient, api: RunningApi
) -> None:
    chat = await create(client)
    async with api.context.sessions.begin() as session:
        row = await session.get_one(Chat, UUID(chat["id"]))
        row.updated_at = row.updated_at.replace(year=2999)
        ahead = row.updated_at
    renamed = (await client.patch(f"/chats/{chat['id']}", json={"title": "New"})).json()
    assert renamed["updated_at"] > rfc3339(ahead)


async def test_07_a_deleted_chat_is_gone(client: httpx.AsyncClient) -> None:
    chat = await create(client)
    answer = await client.delete(f"/chats/{chat['id']}")
    assert (answer.status_code, answer.content) == (204, b"")
    for path in (f"/chats/{chat['id']}", f"/chats/{chat['id']}/messages"):
        assert_problem(await client.get(path), 404, "chat_not_found")
    assert_problem(await client.patch(f"/chats/{chat['id']}", json={"title": "x"}), 404, "chat_not_found")
    assert_problem(await client.delete(f"/chats/{chat['id']}"), 404, "chat_not_found")


async def test_07_deleting_hands_attachments_and_provider_data_to_the_cleanup(
    client: httpx.AsyncClient, api: RunningApi, ann: Caller
) -> None:
    chat, other = await create(client), await create(client)
    sessions = api.context.sessions
    live = await store_attachment(sessions, chat["id"], ann)
    unknown = await store_attachment(sessions, chat["id"], ann, deleted_at=live.created_at)
    ended = [
        await store_attachment(sessions, chat["id"], ann, deleted_at=live.created_at, cleanup_status=status)
        for status in ("done", "failed")
    ]
    elsewhere = await store_attachment(sessions, other["id"], ann)
    await client.delete(f"/chats/{chat['id']}")

    async with sessions() as session:
        statuses = {row.id: row.cleanup_status for row in await session.scalars(select(Attachment))}
        messages = list(await session.scalars(select(OutboxMessage)))
    expected = {live.id: "pending", unknown.id: "pending", ended[0].id: "done", ended[1].id: "failed"}
    assert statuses == {**expected, elsewhere.id: None}
    [message] = messages
    assert (message.queue, message.partition_key, message.delivered_at) == ("chat_cleanup", chat["id"], None)
    assert message.payload.keys() == {"reason", "tenant_id", "chat_id", "system_request_id", "chat_deleted_at"}
    assert message.payload["reason"] == "chat_soft_delete"
    assert (message.payload["tenant_id"], message.payload["chat_id"]) == (str(ann.tenant_id), chat["id"])


async def test_74_an_empty_chat_leaves_a_cleanup_message_too(client: httpx.AsyncClient, api: RunningApi) -> None:
    chat = await create(client)
    await client.delete(f"/chats/{chat['id']}")
    assert (await client.delete(f"/chats/{chat['id']}")).status_code == 404
    async with api.context.sessions() as session:
        messages = (await session.scalars(select(OutboxMessage))).all()
    assert [(message.queue, message.partition_key) for message in messages] == [("chat_cleanup", chat["id"])]
    written = {"kind": "chat_cleanup", "result": "ok"}
    assert api.context.metrics.registry.get_sample_value("mini_chat_outbox_enqueue_total", written) == 1


async def test_07_deleting_deletes_the_event_logs(client: httpx.AsyncClient, api: RunningApi, ann: Caller) -> None:
    """Of the turns that have ended, deleted ones included; a running one ends its log itself."""
    chat, other = await create(client), await create(client)
    context = api.context

    async def add_log(chat_id: str, **columns: Any) -> TurnKeys:
        request_id = await store_running_turn(context.sessions, chat_id, ann)
        async with context.sessions.begin() as session:
            await session.execute(update(Turn).where(Turn.request_id == request_id).values(**columns))
        keys = TurnKeys(UUID(chat_id), request_id)
        await context.valkey.xadd(keys.events, {"e": "stream_started", "f": "x"}, id="0-1")
        await context.valkey.expire(keys.events, 60)
        return keys

    now = SystemClock().now()
    ended = await add_log(chat["id"], state="completed", completed_at=now)
    deleted = await add_log(chat["id"], state="failed", completed_at=now, deleted_at=now)
    elsewhere = await add_log(other["id"], state="completed", completed_at=now)
    held = await add_log(chat["id"], attempt=1, lease_owner="w", lease_expires_at=now + timedelta(minutes=1))
    await client.delete(f"/chats/{chat['id']}")
    left = [keys for keys in (ended, deleted, elsewhere, held) if await context.valkey.exists(keys.events)]
    assert left == [elsewhere, held]
    requested = {"trigger": "internal"}
    assert context.metrics.registry.get_sample_value("mini_chat_cancel_requested_total", requested) == 1


async def test_07_a_turn_that_nobody_holds_ends_with_its_chat_and_its_log_soon_after(
    client: httpx.AsyncClient, api: RunningApi, ann: Caller
) -> None:
    chat = await create(client)
    request_id = await store_running_turn(api.context.sessions, chat["id"], ann)
    keys = TurnKeys(UUID(chat["id"]), request_id)
    await api.context.valkey.xadd(keys.events, {"e": "stream_started", "f": "x"}, id="0-1")
    await client.delete(f"/chats/{chat['id']}")
    newest = await api.context.log.newest(keys)
    assert newest is not None
    assert newest.is_terminal
    assert 0 < await api.context.valkey.pttl(keys.events) <= FAREWELL_MS


async def test_08_models(client: httpx.AsyncClient) -> None:
    models = (await client.get("/models")).json()
    assert models.keys() == {"items"}
    assert [model["model_id"] for model in models["items"]] == [PREMIUM, STANDARD, MINI, NANO]
    for model in models["items"]:
        assert model.keys() == {
            "model_id",
            "display_name",
            "tier",
            "multiplier_display",
            "multimodal_capabilities",
            "context_window",
            "description",
        }
    assert (await client.get(f"/models/{PREMIUM}")).json() == models["items"][0]
    for model_id in (DISABLED, "nonsense", "a/b"):
        assert_problem(await client.get(f"/models/{model_id}"), 404, "model_not_found")


async def test_09_what_is_not_ones_own_does_not_exist(client: httpx.AsyncClient, api: RunningApi, ann: Caller) -> None:
    """To a stranger, and to a colleague of the same tenant, a chat answers like one that never was."""
    chat = await create(client, title="secret")
    await store_turn(api.context.sessions, chat["id"], ann)
    requests: list[tuple[str, str, Any]] = [
        ("GET", "", None),
        ("PATCH", "", {"title": "mine"}),
        ("DELETE", "", None),
        ("GET", "/messages", None),
    ]
    for caller in (Caller(tenant_id=ann.tenant_id), Caller(user_id=ann.user_id), Caller()):
        async with api.client(caller) as stranger:
            for method, suffix, body in requests:
                existing = await stranger.request(method, f"/chats/{chat['id']}{suffix}", json=body)
                missing_id = str(new_uuid4())
                missing = await stranger.request(method, f"/chats/{missing_id}{suffix}", json=body)
                assert _without_ids(existing, chat["id"]) == _without_ids(missing, missing_id)
                assert existing.status_code == 404
            assert (await stranger.get("/chats")).json()["items"] == []
    assert (await client.get(f"/chats/{chat['id']}")).json()["title"] == "secret"


async def test_counts_and_the_running_turn_are_those_of_the_chat(
    client: httpx.AsyncClient, api: RunningApi, ann: Caller
) -> None:
    chat, other = await create(client), await create(client)
    sessions = api.context.sessions
    for _ in range(2):
        await store_turn(sessions, chat["id"], ann)
    running = await store_running_turn(sessions, chat["id"], ann)
    found = (await client.get(f"/chats/{chat['id']}")).json()
    assert (found["message_count"], found["running_request_id"]) == (4, str(running))
    assert (await client.get(f"/chats/{other['id']}")).json() == other
    listed = {item["id"]: item for item in (await client.get("/chats")).json()["items"]}
    assert listed == {chat["id"]: found, other["id"]: other}


def _without_ids(answer: httpx.Response, chat_id: str) -> tuple[int, list[tuple[str, str]], str]:
    body = answer.text.replace(chat_id, "<chat>").replace(answer.json()["trace_id"], "<trace>")
    return answer.status_code, sorted(answer.headers.items()), body

"""The history of a chat as a client sees it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest
from sqlalchemy import update

from shared.messages.tables import Message
from tests.integration.api.rows import StoredTurn, attach, react, store_attachment, store_turn
from tests.support.api import RunningApi
from tests.support.problems import assert_problem
from tests.support.statements import noted_statements
from tests.support.tokens import Caller

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
IMAGE: dict[str, Any] = {
    "attachment_kind": "image",
    "for_file_search": False,
    "img_thumbnail": b"webp",
    "img_thumbnail_width": 1,
    "img_thumbnail_height": 1,
}


@pytest.fixture
async def chat_id(client: httpx.AsyncClient) -> str:
    return str((await client.post("/chats", json={})).json()["id"])


@pytest.fixture
async def turns(api: RunningApi, chat_id: str, ann: Caller) -> list[StoredTurn]:
    """Three turns, a minute apart."""
    return [
        await store_turn(api.context.sessions, chat_id, ann, at=NOON + timedelta(minutes=number), text=f"n° {number}")
        for number in range(3)
    ]


async def messages(client: httpx.AsyncClient, chat_id: str, **params: str | int) -> dict[str, Any]:
    answer = await client.get(f"/chats/{chat_id}/messages", params=params)
    assert answer.status_code == 200, answer.text
    page: dict[str, Any] = answer.json()
    return page


async def test_10_history_is_chronological_and_pairs_share_their_request(
    client: httpx.AsyncClient, api: RunningApi, ann: Caller
) -> None:
    chat_id = (await client.post("/chats", json={})).json()["id"]
    assert (await messages(client, chat_id))["items"] == []
    stored = [await store_turn(api.context.sessions, chat_id, ann, at=NOON + timedelta(minutes=n)) for n in range(3)]
    items = (await messages(client, chat_id))["items"]
    assert [item["role"] for item in items] == ["user", "assistant"] * 3
    assert [item["request_id"] for item in items] == [str(turn.request_id) for turn in stored for _ in range(2)]
    assert (await client.get(f"/chats/{chat_id}")).json()["message_count"] == 6


async def test_11_every_message_has_its_members(
    client: httpx.AsyncClient, api: RunningApi, chat_id: str, turns: list[StoredTurn], ann: Caller
) -> None:
    await react(api.context.sessions, turns[0].answer, ann, "like")
    await react(api.context.sessions, turns[0].answer, Caller(), "dislike")
    question, answer, *_ = (await messages(client, chat_id))["items"]
    assert question == {
        "id": str(turns[0].question.id),
        "request_id": str(turns[0].request_id),
        "role": "user",
        "content": "n° 0",
        "attachments": [],
        "my_reaction": None,
        "created_at": "2026-03-01T12:00:00.000000Z",
    }
    assert (answer["my_reaction"], answer["attachments"]) == ("like", [])


async def test_12_answers_carry_model_and_tokens(
    client: httpx.AsyncClient, api: RunningApi, chat_id: str, turns: list[StoredTurn]
) -> None:
    async with api.context.sessions.begin() as session:
        await session.execute(update(Message).where(Message.id == turns[1].answer.id).values(output_tokens=0))
    answers = (await messages(client, chat_id, **{"$filter": "role eq 'assistant'"}))["items"]
    assert (answers[0]["model"], answers[0]["input_tokens"], answers[0]["output_tokens"]) == ("gpt-5.2", 12, 34)
    assert "output_tokens" not in answers[1]


async def test_12_attachments_are_those_of_the_message_in_order(
    client: httpx.AsyncClient, api: RunningApi, chat_id: str, turns: list[StoredTurn], ann: Caller
) -> None:
    sessions = api.context.sessions
    image = {"attachment_kind": "image", "img_thumbnail_width": 2, "img_thumbnail_height": 1, "img_thumbnail": b"webp"}
    text = await store_attachment(sessions, chat_id, ann, status="uploaded")
    picture = await store_attachment(sessions, chat_id, ann, filename="a.png", **image)
    gone = await store_attachment(sessions, chat_id, ann, deleted_at=NOON)
    await attach(sessions, turns[0].question, text, at=NOON + timedelta(seconds=1))
    await attach(sessions, turns[0].question, picture, at=NOON)
    await attach(sessions, turns[0].question, gone, at=NOON)
    await attach(sessions, turns[2].question, text, at=NOON)
    shown = [item["attachments"] for item in (await messages(client, chat_id))["items"]]
    document = {"attachment_id": str(text.id), "kind": "document", "filename": "notes.txt", "status": "pending"}
    thumbnail = {"content_type": "image/webp", "width": 2, "height": 1, "data_base64": "d2VicA=="}
    assert shown[0] == [
        {
            "attachment_id": str(picture.id),
            "kind": "image",
            "filename": "a.png",
            "status": "ready",
            "img_thumbnail": thumbnail,
        },
        document,
    ]
    assert shown[1:] == [[], [], [], [document], []]


async def test_13_select(client: httpx.AsyncClient, chat_id: str, turns: list[StoredTurn]) -> None:
    page = await messages(client, chat_id, **{"$select": "id,content"})
    assert [item.keys() for item in page["items"]] == [{"id", "content"}] * 6
    assert page["page_info"]["limit"] == 20


async def test_13_orderby(client: httpx.AsyncClient, chat_id: str, turns: list[StoredTurn]) -> None:
    rising = (await messages(client, chat_id))["items"]
    falling = (await messages(client, chat_id, **{"$orderby": "created_at desc"}))["items"]
    assert falling == rising[::-1]


async def test_13_filter(client: httpx.AsyncClient, chat_id: str, turns: list[StoredTurn]) -> None:
    first = turns[0].question.id
    after = "2026-03-01T12:00:30Z"
    everything = [item["id"] for item in (await messages(client, chat_id))["items"]]
    for where, expected in {
        "role eq 'assistant'": everything[1::2],
        "role in ('user')": everything[::2],
        f"id eq '{first}'": [str(first)],
        f"id ne {first}": everything[1:],
        f"created_at gt {after}": everything[2:],
        f"created_at gt {after} and role eq 'user'": everything[2::2],
        f"not (created_at gt {after}) or role eq 'system'": everything[:2],
    }.items():
        found = await messages(client, chat_id, **{"$filter": where})
        assert [item["id"] for item in found["items"]] == expected, where


@pytest.mark.parametrize(
    "query",
    ["$filter=nonsense eq 'x'", "$filter=role gt 'user'", "$select=secret", "$select=", "$orderby=role", "$skip=1"],
)
async def test_13_a_bad_option_is_invalid(client: httpx.AsyncClient, chat_id: str, query: str) -> None:
    assert_problem(await client.get(f"/chats/{chat_id}/messages?{query}"), 400, "invalid_request")


async def test_14_pages_of_one_yield_every_message(
    client: httpx.AsyncClient, chat_id: str, turns: list[StoredTurn]
) -> None:
    expected = [item["id"] for item in (await messages(client, chat_id))["items"]]
    found = []
    params: dict[str, str | int] = {"limit": 1}
    while params.get("cursor") != "":
        page = await messages(client, chat_id, **params)
        found += [item["id"] for item in page["items"]]
        params["cursor"] = page["page_info"]["next_cursor"] or ""
    assert found == expected


async def test_14_a_cursor_fixes_order_and_filter(
    client: httpx.AsyncClient, chat_id: str, turns: list[StoredTurn]
) -> None:
    where = {"$filter": "role eq 'user'"}
    cursor = (await messages(client, chat_id, limit=1, **where))["page_info"]["next_cursor"]
    page = await messages(client, chat_id, cursor=cursor, **where)
    assert [item["id"] for item in page["items"]] == [str(turn.question.id) for turn in turns[1:]]
    for params in (
        {"cursor": cursor},
        {"cursor": cursor, "$filter": "role eq 'assistant'"},
        {"cursor": cursor, "$orderby": "created_at desc", **where},
        {"cursor": "garbage"},
    ):
        assert_problem(await client.get(f"/chats/{chat_id}/messages", params=params), 400, "invalid_request")


async def test_rows_of_no_turn_and_deleted_rows_are_not_shown(
    client: httpx.AsyncClient, api: RunningApi, chat_id: str, turns: list[StoredTurn]
) -> None:
    async with api.context.sessions.begin() as session:
        await session.execute(update(Message).where(Message.id == turns[0].question.id).values(request_id=None))
        await session.execute(update(Message).where(Message.id == turns[0].answer.id).values(deleted_at=NOON))
        await session.execute(update(Message).where(Message.id == turns[1].answer.id).values(is_compressed=True))
    shown = [UUID(item["id"]) for item in (await messages(client, chat_id))["items"]]
    assert shown == [message.id for turn in turns[1:] for message in (turn.question, turn.answer)]
    assert (await client.get(f"/chats/{chat_id}")).json()["message_count"] == 4


async def test_a_page_of_100_messages_takes_four_statements(
    client: httpx.AsyncClient, api: RunningApi, chat_id: str, ann: Caller
) -> None:
    """The chat, its messages, their attachments with the thumbnails, and the reactions: however many there are."""
    sessions = api.context.sessions
    image = await store_attachment(sessions, chat_id, ann, **IMAGE)
    for number in range(50):
        turn = await store_turn(sessions, chat_id, ann, at=NOON + timedelta(minutes=number))
        await attach(sessions, turn.question, image, at=NOON)
        await react(sessions, turn.answer, ann, "like")
    with noted_statements(api.context.engine.sync_engine) as statements:
        items = (await messages(client, chat_id, limit=100))["items"]
    assert len(items) == 100
    assert all(item["attachments"][0]["img_thumbnail"] for item in items[::2])
    assert {item["my_reaction"] for item in items[1::2]} == {"like"}
    assert len(statements) == 4

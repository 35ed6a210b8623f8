"""Liking and disliking answers."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from shared.ids import new_uuid4
from tests.integration.api.rows import StoredTurn, store_turn
from tests.support.api import RunningApi
from tests.support.problems import assert_problem
from tests.support.tokens import Caller


@pytest.fixture
async def chat_id(client: httpx.AsyncClient) -> str:
    return str((await client.post("/chats", json={})).json()["id"])


@pytest.fixture
async def turn(api: RunningApi, chat_id: str, ann: Caller) -> StoredTurn:
    return await store_turn(api.context.sessions, chat_id, ann)


def path(chat_id: str, message_id: object) -> str:
    return f"/chats/{chat_id}/messages/{message_id}/reaction"


async def shown(client: httpx.AsyncClient, chat_id: str) -> list[Any]:
    items = (await client.get(f"/chats/{chat_id}/messages")).json()["items"]
    return [item["my_reaction"] for item in items]


async def test_15_a_reaction_is_set_shown_replaced_and_taken_away(
    client: httpx.AsyncClient, chat_id: str, turn: StoredTurn
) -> None:
    answer = await client.put(path(chat_id, turn.answer.id), json={"reaction": "like"})
    assert answer.status_code == 200
    assert answer.json().keys() == {"message_id", "reaction", "created_at"}
    assert (answer.json()["message_id"], answer.json()["reaction"]) == (str(turn.answer.id), "like")
    assert await shown(client, chat_id) == [None, "like"]

    replaced = await client.put(path(chat_id, turn.answer.id), json={"reaction": "dislike"})
    assert replaced.json()["created_at"] > answer.json()["created_at"]
    assert await shown(client, chat_id) == [None, "dislike"]

    for _ in range(2):
        assert (await client.delete(path(chat_id, turn.answer.id))).status_code == 204
    assert await shown(client, chat_id) == [None, None]


@pytest.mark.parametrize("body", [{"reaction": "love"}, {"reaction": None}, {}, {"reaction": ["like"]}, []])
async def test_15_another_value_is_refused(
    client: httpx.AsyncClient, chat_id: str, turn: StoredTurn, body: object
) -> None:
    assert_problem(await client.put(path(chat_id, turn.answer.id), json=body), 400, "invalid_request")
    assert await shown(client, chat_id) == [None, None]


async def test_15_only_answers_are_reacted_to(client: httpx.AsyncClient, chat_id: str, turn: StoredTurn) -> None:
    answer = await client.put(path(chat_id, turn.question.id), json={"reaction": "like"})
    assert_problem(answer, 400, "invalid_reaction_target")


async def test_15_a_message_elsewhere_does_not_exist(
    client: httpx.AsyncClient, api: RunningApi, chat_id: str, turn: StoredTurn
) -> None:
    other_chat = (await client.post("/chats", json={})).json()["id"]
    for place in (path(chat_id, new_uuid4()), path(other_chat, turn.answer.id)):
        assert_problem(await client.put(place, json={"reaction": "like"}), 404, "message_not_found")
        assert_problem(await client.delete(place), 404, "message_not_found")
    async with api.client(Caller()) as stranger:
        place = path(chat_id, turn.answer.id)
        assert_problem(await stranger.put(place, json={"reaction": "like"}), 404, "chat_not_found")
        assert_problem(await stranger.delete(place), 404, "chat_not_found")
    assert_problem(await client.put(path(chat_id, "x"), json={"reaction": "like"}), 400, "invalid_request")


async def test_a_user_has_one_reaction_to_a_message_however_often_it_is_set_at_once(
    client: httpx.AsyncClient, chat_id: str, turn: StoredTurn
) -> None:
    place = path(chat_id, turn.answer.id)
    answers = await asyncio.gather(
        *(client.put(place, json={"reaction": ("like", "dislike")[number % 2]}) for number in range(10))
    )
    assert {answer.status_code for answer in answers} == {200}
    assert await shown(client, chat_id) in ([None, "like"], [None, "dislike"])

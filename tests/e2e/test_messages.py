"""What turns leave in a chat's history."""

from __future__ import annotations

import httpx

from tests.support.turns import ask, create_chat, list_messages, scripted


async def test_10_n_turns_make_2n_messages_in_order(client: httpx.AsyncClient) -> None:
    chat_id = await create_chat(client)
    assert await list_messages(client, chat_id) == []

    turns = []
    for n in range(1, 4):
        turns.append(await ask(client, scripted(f"question {n}", text=f"answer {n}", rate=0), chat_id=chat_id))
        assert (await client.get(f"/chats/{chat_id}")).json()["message_count"] == 2 * n

    messages = await list_messages(client, chat_id)
    assert [item["role"] for item in messages] == ["user", "assistant"] * 3
    assert [item["request_id"] for item in messages] == [turn.request_id for turn in turns for _ in range(2)]
    assert [item["created_at"] for item in messages] == sorted({item["created_at"] for item in messages})
    assert [item["content"] for item in messages[1::2]] == ["answer 1", "answer 2", "answer 3"]


async def test_11_every_message_has_its_request_attachments_and_reaction(client: httpx.AsyncClient) -> None:
    turn = await ask(client, scripted(text="Yes.", rate=0))

    messages = await list_messages(client, turn.chat_id)

    assert len(messages) == 2
    for item in messages:
        assert item["request_id"] == turn.body["request_id"]
        assert item["attachments"] == []
        assert item["my_reaction"] is None


async def test_12_answers_carry_model_and_usage_of_the_done_event(client: httpx.AsyncClient) -> None:
    usage = {"input_tokens": 321, "output_tokens": 54}
    turn = await ask(client, scripted(text="Yes.", rate=0, usage=usage))

    question, answer = await list_messages(client, turn.chat_id)

    told = turn.terminal.data["usage"]
    assert told == usage | {"model": answer["model"]}
    assert {name: answer[name] for name in usage} == usage
    assert answer["id"] == turn.message_id
    assert not {"model", "input_tokens", "output_tokens"} & question.keys()

"""What a user's turns cost, through the whole product: the buckets, the turn's row, the event and what clients read."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest

from shared.ids import new_uuid4
from tests.support.books import find_differences, read_buckets, set_spent
from tests.support.catalogs import MINI, PREMIUM, STANDARD
from tests.support.deployment import Deployment
from tests.support.sse import Event, open_stream
from tests.support.tokens import Caller
from tests.support.turns import (
    ToldTurn,
    ask,
    create_chat,
    message,
    new_marker,
    scripted,
    send_path,
    turn_path,
    wait_for_state,
)

PREMIUM_KEYS = {("daily", "tier:premium"), ("monthly", "tier:premium")}
TOTAL_KEYS = {("daily", "total"), ("monthly", "total")}
PRICES = {PREMIUM: (3, 15), STANDARD: (1, 3), MINI: (1, 3)}


class Purse:
    """The caller's buckets."""

    def __init__(self, database: asyncpg.Connection, owner: Caller) -> None:
        self._database = database
        self.owner = owner
        self.given: list[tuple[UUID, str, str, int]] = []

    async def give(self, spent: dict[tuple[str, str], int]) -> None:
        """Have the owner spent so much, before any turn."""
        self.given += await set_spent(self._database, self.owner.tenant_id, self.owner.user_id, spent)

    async def rows(self) -> dict[tuple[str, str], asyncpg.Record]:
        return await read_buckets(self._database, self.owner.user_id)

    async def spent(self) -> dict[tuple[str, str], int]:
        return {key: row["spent_credits_micro"] for key, row in (await self.rows()).items() if row["calls"]}

    async def is_idle(self) -> bool:
        return all(row["reserved_credits_micro"] == 0 for row in (await self.rows()).values())

    async def differences(self) -> list[str]:
        return await find_differences(self._database, given=self.given, user_id=self.owner.user_id)


@pytest.fixture
async def purse(database: asyncpg.Connection, caller: Caller) -> AsyncIterator[Purse]:
    """The caller's; at the end of the test its books agree."""
    purse = Purse(database, caller)
    yield purse
    assert await purse.differences() == []


async def find_row(database: asyncpg.Connection, turn: ToldTurn) -> asyncpg.Record:
    row = await database.fetchrow(
        "SELECT * FROM chat_turns WHERE chat_id = $1 AND request_id = $2", UUID(turn.chat_id), UUID(turn.request_id)
    )
    assert row is not None
    return row


async def find_events(database: asyncpg.Connection, chat_id: str, *, queue: str = "usage_snapshot") -> list[Any]:
    rows = await database.fetch(
        "SELECT payload::text FROM outbox_messages WHERE queue = $2 AND payload->>'chat_id' = $1 ORDER BY id",
        chat_id,
        queue,
    )
    return [json.loads(row["payload"]) for row in rows]


def price(model: str, usage: dict[str, Any]) -> int:
    ins, outs = PRICES[model]
    return int(usage["input_tokens"] * ins + usage["output_tokens"] * outs)


async def test_a_premium_turn_raises_both_buckets_and_a_standard_turn_only_total(
    client: httpx.AsyncClient, purse: Purse
) -> None:
    turn = await ask(client, scripted(rate=0), chat_id=await create_chat(client, model=PREMIUM))
    cost = price(PREMIUM, turn.terminal.data["usage"])
    assert await purse.spent() == dict.fromkeys(PREMIUM_KEYS | TOTAL_KEYS, cost)

    turn = await ask(client, scripted(rate=0), chat_id=await create_chat(client, model=STANDARD))
    more = price(STANDARD, turn.terminal.data["usage"])
    assert await purse.spent() == dict.fromkeys(PREMIUM_KEYS, cost) | dict.fromkeys(TOTAL_KEYS, cost + more)
    rows = await purse.rows()
    assert (rows["daily", "total"]["calls"], rows["daily", "tier:premium"]["calls"]) == (2, 1)
    assert rows["daily", "tier:premium"]["input_tokens"] == 0


@pytest.mark.parametrize(
    ("usage", "is_capped"), [({"input_tokens": 700, "output_tokens": 9}, False), ({"input_tokens": 20_000}, True)]
)
async def test_a_turn_costs_what_it_used_or_its_reserve_when_capped(
    client: httpx.AsyncClient, database: asyncpg.Connection, purse: Purse, usage: dict[str, int], is_capped: bool
) -> None:
    turn = await ask(client, scripted(rate=0, usage=usage), chat_id=await create_chat(client, model=STANDARD))
    row = await find_row(database, turn)
    cost = row["reserved_credits_micro"] if is_capped else price(STANDARD, turn.terminal.data["usage"])
    assert await purse.spent() == dict.fromkeys(TOTAL_KEYS, cost)
    [event] = await find_events(database, turn.chat_id)
    assert (event["committed_credits_micro"], event["overshoot_capped"]) == (cost, is_capped)


async def test_nothing_stays_reserved_whatever_becomes_of_turns(client: httpx.AsyncClient, purse: Purse) -> None:
    await ask(client, scripted(rate=0))
    assert await purse.is_idle()
    await ask(client, scripted(http_status=500))
    assert await purse.is_idle()
    chat_id = await create_chat(client)
    body = message(scripted(tokens=1_000, rate=100))
    async with open_stream(client, "POST", send_path(chat_id), json=body) as stream:
        await stream.until("delta")
        assert not await purse.is_idle()
        await client.post(f"{turn_path(chat_id, body['request_id'])}/cancel")
        await stream.rest()
    assert await purse.is_idle()


async def test_the_row_says_what_was_reserved(
    client: httpx.AsyncClient, database: asyncpg.Connection, purse: Purse
) -> None:
    row = await find_row(database, await ask(client, scripted(rate=0), chat_id=await create_chat(client, model=MINI)))
    assert row["max_output_tokens_applied"] == 4_096
    assert row["reserve_tokens"] > row["max_output_tokens_applied"]
    assert row["reserved_credits_micro"] == row["reserve_tokens"] + 2 * 4_096
    assert (row["policy_version_applied"], row["minimal_generation_floor_applied"]) == (1, 50)
    assert row["daily_period_start"].replace(day=1) == row["monthly_period_start"]


async def test_without_premium_credit_a_standard_model_answers(
    client: httpx.AsyncClient, product: Deployment, purse: Purse
) -> None:
    await purse.give({("daily", "tier:premium"): 49_990_000})
    marker = new_marker()
    turn = await ask(client, scripted(marker, rate=0), chat_id=await create_chat(client, model=PREMIUM))
    done = turn.terminal.data
    assert (done["quota_decision"], done["downgrade_reason"]) == ("downgrade", "premium_quota_exhausted")
    assert (done["downgrade_from"], done["selected_model"], done["effective_model"]) == (PREMIUM, PREMIUM, STANDARD)
    [request] = product.provider_requests(marker)
    assert request["body"]["model"] == STANDARD
    assert set(await purse.spent()) == TOTAL_KEYS


async def test_without_any_credit_a_send_is_refused_without_a_trace(
    client: httpx.AsyncClient, product: Deployment, database: asyncpg.Connection, purse: Purse
) -> None:
    await purse.give({("monthly", "total"): 999_999_000})
    marker, chat_id = new_marker(), await create_chat(client)
    answer = await client.post(send_path(chat_id), json=message(scripted(marker)))
    problem = answer.json()
    assert (answer.status_code, problem["code"], problem["quota_scope"]) == (429, "quota_exceeded", "tokens")
    assert product.provider_requests(marker) == []
    assert await find_events(database, chat_id) == []
    assert await database.fetchval("SELECT count(*) FROM chat_turns WHERE chat_id = $1", UUID(chat_id)) == 0
    assert await purse.is_idle()


async def test_the_day_limit_of_web_search_binds_only_who_asks_for_it(
    client: httpx.AsyncClient, database: asyncpg.Connection, purse: Purse
) -> None:
    await ask(client, scripted(rate=0))
    await database.execute(
        "UPDATE quota_usage SET web_search_calls = 75 WHERE user_id = $1 AND bucket = 'total'", purse.owner.user_id
    )
    chat_id = await create_chat(client)
    answer = await client.post(send_path(chat_id), json=message("?", web_search={"enabled": True}))
    assert (answer.status_code, answer.json()["quota_scope"]) == (429, "web_search")
    assert answer.json()["detail"] == "Daily web search quota exceeded"
    assert (await ask(client, scripted(rate=0), chat_id=chat_id)).terminal.name == "done"


async def test_of_64_parallel_sends_exactly_the_affordable_ones_run(
    client: httpx.AsyncClient, other_replica: httpx.AsyncClient, database: asyncpg.Connection, purse: Purse
) -> None:
    """All at once, in chats of their own, over two replicas, with credit for ten; the content is of one length."""
    chats = [await create_chat(client, model=MINI) for _ in range(64)]
    content = scripted(tokens=1, terminal="hang")
    reserve = await self_priced_reserve(client, database, purse, content)
    spent = (await purse.rows())["daily", "total"]["spent_credits_micro"]
    await database.execute(
        "UPDATE quota_usage SET spent_credits_micro = $2 WHERE user_id = $1 AND bucket = 'total'",
        purse.owner.user_id,
        100_000_000 - 10 * reserve,
    )
    purse.given = [(purse.owner.user_id, *key, 100_000_000 - 10 * reserve - spent) for key in TOTAL_KEYS]

    async def send(index: int) -> tuple[int, str]:
        replica, body = (client, other_replica)[index % 2], message(content)
        async with replica.stream("POST", send_path(chats[index]), json=body) as answer:
            if answer.status_code == httpx.codes.OK:
                return answer.status_code, body["request_id"]
            return answer.status_code, json.loads(await answer.aread())["quota_scope"]

    outcomes = await asyncio.gather(*(send(index) for index in range(64)))

    accepted = [index for index, (status, _) in enumerate(outcomes) if status == httpx.codes.OK]
    assert len(accepted) == 10
    assert {outcome for index, outcome in enumerate(outcomes) if index not in accepted} == {(429, "tokens")}
    row = (await purse.rows())["daily", "total"]
    assert row["spent_credits_micro"] + row["reserved_credits_micro"] == 100_000_000
    for index in accepted:
        await client.post(f"{turn_path(chats[index], outcomes[index][1])}/cancel")
    for index in accepted:
        await wait_for_state(client, chats[index], outcomes[index][1], "cancelled")
    assert await purse.is_idle()


async def self_priced_reserve(
    client: httpx.AsyncClient, database: asyncpg.Connection, purse: Purse, content: str
) -> int:
    """What a message like `content` reserves, found by sending one."""
    chat_id, body = await create_chat(client, model=MINI), message(content)
    async with open_stream(client, "POST", send_path(chat_id), json=body) as stream:
        await stream.take(1)
        reserve: int = await database.fetchval(
            "SELECT reserved_credits_micro FROM chat_turns WHERE chat_id = $1", UUID(chat_id)
        )
        await client.post(f"{turn_path(chat_id, body['request_id'])}/cancel")
        await stream.rest()
    assert await purse.is_idle()
    return reserve


async def test_every_reserving_turn_has_one_usage_event_that_says_how_it_was_settled(
    client: httpx.AsyncClient, database: asyncpg.Connection, purse: Purse
) -> None:
    done = await ask(client, scripted(rate=0))
    failed = await ask(client, scripted(http_status=503))
    broken = await ask(client, scripted(tokens=3, rate=0, terminal="failed", usage={"input_tokens": 5}))
    chat_id, body = await create_chat(client), message(scripted(tokens=1_000, rate=100))
    async with open_stream(client, "POST", send_path(chat_id), json=body) as stream:
        await stream.until("delta")
        await client.post(f"{turn_path(chat_id, body['request_id'])}/cancel")
        await stream.rest()
        stopped = ToldTurn(chat_id, body, stream.events)

    expected = {
        done.chat_id: ("completed", "completed", "actual", None),
        failed.chat_id: ("failed", "failed", "estimated", "provider_error"),
        stopped.chat_id: ("cancelled", "aborted", "estimated", None),
    }
    for turn in (done, failed, stopped):
        row = await find_row(database, turn)
        [event] = await find_events(database, turn.chat_id)
        assert event["dedupe_key"] == f"{row['tenant_id'].hex}/{row['id'].hex}/{row['request_id'].hex}"
        told = (event["terminal_state"], event["outcome"], event["settlement_method"], event["error_code"])
        assert told == expected[turn.chat_id]
        assert event["billing_outcome"] == event["outcome"]
        assert event["committed_credits_micro"] > 0
        assert (event["reserve_tokens"], event["user_id"]) == (row["reserve_tokens"], str(purse.owner.user_id))
    [event] = await find_events(database, broken.chat_id)
    assert (event["outcome"], event["committed_credits_micro"] > 0) == ("failed", True)


async def test_replays_and_refusals_leave_no_event_and_no_charge(
    client: httpx.AsyncClient, database: asyncpg.Connection, purse: Purse
) -> None:
    turn = await ask(client, scripted(rate=0))
    before = await purse.spent()
    for _ in range(3):
        again = await ask(client, scripted(rate=0), chat_id=turn.chat_id, request_id=turn.request_id)
        assert "quota_warnings" not in again.terminal.data
    refused = await client.post(send_path(turn.chat_id), json=message("?", attachment_ids=[str(new_uuid4())]))
    assert refused.status_code == httpx.codes.BAD_REQUEST
    assert await purse.spent() == before
    assert len(await find_events(database, turn.chat_id)) == 1


async def test_done_warns_of_every_tier_and_period_as_the_buckets_stand(
    client: httpx.AsyncClient, purse: Purse
) -> None:
    await purse.give({("daily", "tier:premium"): 45_000_000})
    turn = await ask(client, scripted(rate=0), chat_id=await create_chat(client, model=PREMIUM))
    warnings = turn.terminal.data["quota_warnings"]
    assert [(entry["tier"], entry["period"]) for entry in warnings] == [
        ("premium", "daily"),
        ("premium", "monthly"),
        ("total", "daily"),
        ("total", "monthly"),
    ]
    assert (warnings[0]["remaining_percentage"], warnings[0]["warning"], warnings[0]["exhausted"]) == (9, True, False)
    assert "next_reset" in warnings[0]
    assert warnings[1]["warning"] is False
    assert "next_reset" not in warnings[1]


async def test_mutations_are_audited_with_the_change_and_settle_nothing(
    client: httpx.AsyncClient, database: asyncpg.Connection, purse: Purse
) -> None:
    turn = await ask(client, scripted(rate=0))
    retried = await mutate(client, "POST", f"{turn.turn_path}/retry")
    edited = await mutate(client, "PATCH", turn_path(turn.chat_id, retried), {"content": scripted(rate=0)})
    spent = await purse.spent()
    assert (await client.delete(turn_path(turn.chat_id, edited))).status_code == httpx.codes.NO_CONTENT
    assert await purse.spent() == spent
    events = await find_events(database, turn.chat_id, queue="audit")
    retry, edit, delete = (event for event in events if not event["event_type"].startswith("turn_c"))
    assert (retry["event_type"], retry["original_request_id"], retry["new_request_id"]) == (
        "turn_retry",
        turn.request_id,
        retried,
    )
    assert (edit["event_type"], edit["new_request_id"]) == ("turn_edit", edited)
    assert (delete["event_type"], delete["request_id"]) == ("turn_delete", edited)
    assert {event["actor_user_id"] for event in (retry, edit, delete)} == {str(purse.owner.user_id)}
    assert [event["event_type"] for event in events].count("turn_completed") == 3


async def mutate(client: httpx.AsyncClient, method: str, path: str, body: Any = None) -> str:
    """Retry or edit, and read the new turn to its end; its request id."""
    async with open_stream(client, method, path, json=body) as stream:
        events: list[Event] = await stream.rest()
    assert events[-1].name == "done"
    request_id: str = events[0].data["request_id"]
    return request_id

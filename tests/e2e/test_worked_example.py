"""One message, priced line by line: a premium chat with too little premium credit left, whose answer a standard model
gives. Every number was worked out by hand."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest

from shared.ids import new_uuid4
from tests.support.books import read_buckets, set_spent
from tests.support.database import cloned_database
from tests.support.deployment import Deployment, deployment
from tests.support.sse import open_stream
from tests.support.tokens import Caller
from tests.support.turns import ask, create_chat, message, scripted, send_path, turn_path

PREM, STD = "prem-a", "std-a"
PREMIUM_SPENT, TOTAL_SPENT = 49_900_000, 60_000_000
RESERVE = 27_576
FLOOR = 50


def worked_catalog(*, provider_port: int) -> dict[str, Any]:
    provider = {"kind": "openai_responses", "storage_kind": "openai"}
    limits = {"limit_daily_credits_micro": 100_000_000, "limit_monthly_credits_micro": 10_000_000_000}
    return {
        "policy_version": 1,
        "providers": {"openai": provider | {"host": "127.0.0.1", "port": provider_port, "use_http": True}},
        "default_standard_limits": limits,
        "default_premium_limits": limits | {"limit_daily_credits_micro": 50_000_000},
        "model_catalog": [
            _model(PREM, "premium", 3_000_000, 15_000_000),
            _model(STD, "standard", 1_000_000, 3_000_000),
        ],
    }


def _model(name: str, tier: str, in_multiplier: int, out_multiplier: int) -> dict[str, Any]:
    return {
        "id": name,
        "provider_model_id": name,
        "provider_id": "openai",
        "provider_display_name": "openai",
        "display_name": name,
        "tier": tier,
        "enabled": True,
        "multimodal_capabilities": ["VISION_INPUT"],
        "context_window": 128_000,
        "max_input_tokens": 120_000,
        "max_output_tokens": 8_192,
        "input_tokens_credit_multiplier_micro": in_multiplier,
        "output_tokens_credit_multiplier_micro": out_multiplier,
        "max_num_results": 10,
        "estimation_budgets": {
            "bytes_per_token_conservative": 4,
            "fixed_overhead_tokens": 500,
            "safety_margin_pct": 10,
            "tool_surcharge_tokens": 200,
        },
        "general_config": {"tool_support": {"file_search": True}},
    }


@pytest.fixture(scope="module")
def worked(template_url: str, spare_valkey_url: str) -> Iterator[Deployment]:
    """A product of its own, for the sake of its catalog."""
    runner = asyncio.Runner()
    database = cloned_database(template_url)
    try:
        url = runner.run(database.__aenter__())
        with deployment(
            database_url=url, valkey_url=spare_valkey_url, apis=1, workers=1, make_catalog=worked_catalog
        ) as running:
            yield running
    finally:
        runner.run(database.__aexit__(None, None, None))
        runner.close()


@pytest.fixture
async def client(worked: Deployment, caller: Caller) -> AsyncIterator[httpx.AsyncClient]:
    async with worked.client(caller) as client:
        yield client


@pytest.fixture
async def database(worked: Deployment) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(worked.database_url)
    yield connection
    await connection.close()


def two_thousand_bytes(**script: Any) -> str:
    return scripted("", **script).ljust(2_000, "x")


async def prepare(client: httpx.AsyncClient, database: asyncpg.Connection, caller: Caller) -> str:
    """A chat on the premium model with a ready document, whose previous answer used 1 500 + 200 tokens."""
    chat_id = await create_chat(client, model=PREM)
    usage = {"input_tokens": 1_500, "output_tokens": 200}
    await ask(client, scripted(rate=0, usage=usage), chat_id=chat_id)
    await database.execute(
        "INSERT INTO attachments (id, tenant_id, chat_id, uploaded_by_user_id, filename, content_type, size_bytes,"
        " storage_backend, provider_file_id, status, attachment_kind, for_file_search, created_at)"
        " VALUES ($1, $2, $3, $4, 'a.txt', 'text/plain', 5, 'openai', 'file-1', 'ready', 'document', true, now())",
        new_uuid4(),
        caller.tenant_id,
        UUID(chat_id),
        caller.user_id,
    )
    await database.execute(
        "INSERT INTO chat_vector_stores (id, tenant_id, chat_id, vector_store_id, provider, file_count, created_at)"
        " VALUES ($1, $2, $3, 'vs_1', 'openai', 1, now())",
        new_uuid4(),
        caller.tenant_id,
        UUID(chat_id),
    )
    await set_spent(
        database,
        caller.tenant_id,
        caller.user_id,
        {("daily", "tier:premium"): PREMIUM_SPENT, ("daily", "total"): TOTAL_SPENT},
    )
    return chat_id


async def newest_row(database: asyncpg.Connection, chat_id: str) -> asyncpg.Record:
    row = await database.fetchrow(
        "SELECT * FROM chat_turns WHERE chat_id = $1 ORDER BY started_at DESC LIMIT 1", UUID(chat_id)
    )
    assert row is not None
    return row


@pytest.mark.parametrize(
    ("usage", "charge", "capped"),
    [
        ((2_411, 377), 3_542, False),  # 2 411 + 3 * 377; 24 034 of the reserve come back
        ((11_500, 500), 13_000, False),  # 12 000 / 11 192 = 1.072: tolerated
        ((11_900, 500), RESERVE, True),  # 12 400 / 11 192 = 1.108: capped at the reserve
    ],
)
async def test_an_answer_costs_what_it_used_within_the_tolerance(
    client: httpx.AsyncClient,
    database: asyncpg.Connection,
    caller: Caller,
    usage: tuple[int, int],
    charge: int,
    capped: bool,
) -> None:
    chat_id = await prepare(client, database, caller)
    before = await read_buckets(database, caller.user_id)
    content = two_thousand_bytes(rate=50, tokens=10, usage={"input_tokens": usage[0], "output_tokens": usage[1]})
    async with open_stream(client, "POST", send_path(chat_id), json=message(content)) as stream:
        await stream.take(1)
        during = await read_buckets(database, caller.user_id)
        done = (await stream.rest())[-1].data
    after = await read_buckets(database, caller.user_id)

    row = await newest_row(database, chat_id)
    assert (row["file_search_included"], row["code_interpreter_included"]) == (True, False)
    # ceil((2 000 / 4 + 500) * 1.10) = 1 100, a tool 200, prior context 1 700; and 8 192 for the answer
    assert row["reserve_tokens"] == 1_100 + 200 + 1_700 + 8_192 == 11_192
    assert row["max_output_tokens_applied"] == 8_192
    assert row["reserved_credits_micro"] == 3_000 + 3 * 8_192 == RESERVE
    # Premium would have reserved 3 * 3 000 + 15 * 8 192 = 131 880, and 49 900 000 + 131 880 > 50 000 000.
    assert (done["quota_decision"], done["downgrade_reason"]) == ("downgrade", "premium_quota_exhausted")
    assert (done["selected_model"], done["effective_model"]) == (PREM, STD)
    for period in ("daily", "monthly"):
        total, premium = (period, "total"), (period, "tier:premium")
        assert during[total]["reserved_credits_micro"] == RESERVE
        assert during[premium]["reserved_credits_micro"] == after[total]["reserved_credits_micro"] == 0
        assert after[total]["spent_credits_micro"] == before[total]["spent_credits_micro"] + charge
        assert after[premium]["spent_credits_micro"] == before[premium]["spent_credits_micro"]
    event = await usage_event(database, row["id"])
    assert (event["settlement_method"], event["committed_credits_micro"]) == ("actual", charge)
    assert (event["overshoot_capped"], event["reserved_credits_micro"]) == (capped, RESERVE)


async def test_a_stop_without_a_count_costs_the_estimate(
    client: httpx.AsyncClient, database: asyncpg.Connection, caller: Caller
) -> None:
    """3 000 tokens of input and a floor of 50 for the answer: 3 000 + 3 * 50."""
    chat_id = await prepare(client, database, caller)
    before = await read_buckets(database, caller.user_id)
    body = message(two_thousand_bytes(tokens=1_000, rate=100))
    async with open_stream(client, "POST", send_path(chat_id), json=body) as stream:
        await stream.until("delta")
        await client.post(f"{turn_path(chat_id, body['request_id'])}/cancel")
        await stream.rest()
    after = await read_buckets(database, caller.user_id)
    total = ("daily", "total")
    assert after[total]["spent_credits_micro"] - before[total]["spent_credits_micro"] == 3_000 + 3 * FLOOR
    event = await usage_event(database, (await newest_row(database, chat_id))["id"])
    assert (event["settlement_method"], event["outcome"]) == ("estimated", "aborted")


async def test_a_turn_whose_provider_was_never_called_costs_nothing(
    client: httpx.AsyncClient, worked: Deployment, database: asyncpg.Connection, caller: Caller
) -> None:
    """It is stopped while no worker runs; the whole reserve comes back."""
    chat_id = await prepare(client, database, caller)
    before = await read_buckets(database, caller.user_id)
    [worker] = worked.workers
    worker.stop()
    try:
        body = message(two_thousand_bytes(tokens=5))
        async with open_stream(client, "POST", send_path(chat_id), json=body) as stream:
            await stream.take(1)
            during = await read_buckets(database, caller.user_id)
            await client.post(f"{turn_path(chat_id, body['request_id'])}/cancel")
            await stream.rest()
    finally:
        worked.workers.remove(worker)
        worked.start_worker()
    assert during["daily", "total"]["reserved_credits_micro"] == RESERVE
    after = await read_buckets(database, caller.user_id)
    for key, row in after.items():
        assert (row["spent_credits_micro"], row["reserved_credits_micro"]) == (before[key]["spent_credits_micro"], 0)
    event = await usage_event(database, (await newest_row(database, chat_id))["id"])
    assert (event["settlement_method"], event["committed_credits_micro"]) == ("released", 0)


async def usage_event(database: asyncpg.Connection, turn_id: UUID) -> dict[str, Any]:
    [row] = await database.fetch(
        "SELECT payload::text FROM outbox_messages WHERE queue = 'usage_snapshot' AND payload->>'turn_id' = $1",
        str(turn_id),
    )
    event: dict[str, Any] = json.loads(row["payload"])
    return event

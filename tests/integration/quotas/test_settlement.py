"""How each end of a turn is settled: the row, the buckets and the events, in one transaction on a real PostgreSQL."""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import func, insert

from shared.quotas.credits import MAX_TOKENS
from shared.quotas.tables import PolicySnapshot
from shared.turns.gauges import measure_turns
from shared.turns.lifecycle import Ending, TokenUsage
from shared.turns.tables import Turn
from tests.integration.quotas.conftest import OpenLedger
from tests.support.catalogs import PREMIUM, STANDARD, acceptance_catalog
from tests.support.ledger import Ledger
from tests.support.tokens import Caller
from tests.support.turn_rows import change_turn, get_turn
from worker.turns.outage import OutageGuard
from worker.turns.watchdog import Watchdog

USAGE = TokenUsage(2_411, 377, reasoning_tokens=77)
FLOOR = 50


async def events_of(ledger: Ledger, turn: Turn, queue: str) -> list[dict[str, Any]]:
    rows = await ledger.database.fetch(
        "SELECT payload::text, partition_key, dedupe_key FROM outbox_messages"
        " WHERE queue = $1 AND payload->>'turn_id' = $2 ORDER BY id",
        queue,
        str(turn.id),
    )
    partition = str(turn.chat_id if queue == "usage_snapshot" else turn.tenant_id)
    assert all(row["partition_key"] == partition for row in rows)
    return [json.loads(row["payload"]) for row in rows]


@dataclass(frozen=True)
class Expected:
    state: str
    error_code: str | None
    outcome: str
    method: str


# What ends a turn, and how it is billed.
CASES = {
    "the provider completed": (
        Ending.completed(text="Hi", usage=USAGE, response_id="r"),
        Expected("completed", None, "completed", "actual"),
    ),
    "the answer was cut off": (
        Ending.completed(text="Hi", usage=USAGE, response_id="r", incomplete_reason="max_tokens"),
        Expected("completed", None, "completed", "actual"),
    ),
    "the provider completed and did not count": (
        Ending.completed(text="Hi", usage=None, response_id="r"),
        Expected("completed", None, "completed", "estimated"),
    ),
    "the answer is empty": (
        Ending.completed(text="", usage=USAGE, response_id="r"),
        Expected("failed", "provider_error", "failed", "actual"),
    ),
    "the provider failed": (
        Ending.failed("provider_error", provider_started=True),
        Expected("failed", "provider_error", "failed", "estimated"),
    ),
    "the provider failed and counted": (
        Ending.failed("provider_timeout", provider_started=True, usage=USAGE),
        Expected("failed", "provider_timeout", "failed", "actual"),
    ),
    "too many calls of a tool": (
        Ending.failed("web_search_calls_exceeded", provider_started=True),
        Expected("failed", "web_search_calls_exceeded", "failed", "estimated"),
    ),
    "the context did not fit": (
        Ending.failed("context_length_exceeded", provider_started=False),
        Expected("failed", "context_length_exceeded", "failed", "released"),
    ),
    "the request could not be built": (
        Ending.failed("validation_error", provider_started=False),
        Expected("failed", "validation_error", "failed", "released"),
    ),
    "a stop while it generates": (
        Ending.cancelled("user_stop", text="H", provider_started=True),
        Expected("cancelled", None, "aborted", "estimated"),
    ),
    "a stop after it counted": (
        Ending.cancelled("disconnect", text="H", provider_started=True, usage=USAGE),
        Expected("cancelled", None, "aborted", "actual"),
    ),
    "a stop before it was asked": (
        Ending.cancelled("timeout", text="", provider_started=False),
        Expected("cancelled", None, "aborted", "released"),
    ),
    "its workers were lost": (
        Ending.failed("orphan_timeout", provider_started=True),
        Expected("failed", "orphan_timeout", "aborted", "estimated"),
    ),
    "no worker ever took it": (
        Ending.failed("orphan_timeout", provider_started=False),
        Expected("failed", "orphan_timeout", "aborted", "released"),
    ),
    "something unexpected after it was asked": (
        Ending.failed("internal_error", provider_started=True),
        Expected("failed", "internal_error", "failed", "estimated"),
    ),
    "something unexpected before": (
        Ending.failed("internal_error", provider_started=False),
        Expected("failed", "internal_error", "failed", "released"),
    ),
}


async def test_every_way_to_end_is_billed_as_it_should(ledger: Ledger, ann: Caller) -> None:
    """One after the other, in one user's books, which add up at the end."""
    spent = calls = 0
    for name, (ending, expected) in CASES.items():
        turn = await ledger.send(ann, await ledger.new_chat(ann))
        estimated_input = (turn.reserve_tokens or 0) - (turn.max_output_tokens_applied or 0)
        prices = {"actual": 2_411 + 3 * 377, "estimated": estimated_input + 3 * FLOOR, "released": 0}
        assert await ledger.end(turn, ending), name
        stored = await get_turn(ledger.context.sessions, turn)
        assert (stored.state, stored.error_code) == (expected.state, expected.error_code), name
        [event] = await events_of(ledger, turn, "usage_snapshot")
        told = (event["terminal_state"], event["outcome"], event["settlement_method"])
        assert told == (expected.state, expected.outcome, expected.method), name
        charge = prices[expected.method]
        assert event["committed_credits_micro"] == event["actual_credits_micro"] == charge, name
        [audit] = await events_of(ledger, turn, "audit")
        assert audit["event_type"] == ("turn_completed" if expected.state == "completed" else "turn_failed"), name
        spent, calls = spent + charge, calls + (expected.method != "released")
        row = (await ledger.buckets(ann))["daily", "total"]
        assert (row["spent_credits_micro"], row["reserved_credits_micro"], row["calls"]) == (spent, 0, calls), name
    assert row["input_tokens"] == 2_411 * sum(expected.method == "actual" for _, expected in CASES.values())


async def test_the_usage_event_is_complete(ledger: Ledger, ann: Caller) -> None:
    turn = await ledger.send(ann, await ledger.new_chat(ann, model=PREMIUM))
    await ledger.end(turn, Ending.completed(text="Hi", usage=USAGE, response_id="r", incomplete_reason="max_tokens"))
    [event] = await events_of(ledger, turn, "usage_snapshot")
    assert event.pop("timestamp").endswith("Z")
    assert event == {
        "event_type": "usage_snapshot",
        "dedupe_key": f"{turn.tenant_id.hex}/{turn.id.hex}/{turn.request_id.hex}",
        "requester_type": "user",
        "tenant_id": str(ann.tenant_id),
        "user_id": str(ann.user_id),
        "chat_id": str(turn.chat_id),
        "turn_id": str(turn.id),
        "request_id": str(turn.request_id),
        "selected_model": PREMIUM,
        "effective_model": PREMIUM,
        "quota_decision": "allow",
        "downgrade_from": None,
        "downgrade_reason": None,
        "terminal_state": "completed",
        "billing_outcome": "completed",
        "outcome": "completed",
        "settlement_method": "actual",
        "completion_signal": {"incomplete_reason": "max_tokens"},
        "error_code": None,
        "usage": {
            "input_tokens": 2_411,
            "output_tokens": 377,
            "cache_read_input_tokens": 0,
            "cache_write_input_tokens": 0,
            "reasoning_tokens": 77,
        },
        "actual_credits_micro": 3 * 2_411 + 15 * 377,
        "committed_credits_micro": 3 * 2_411 + 15 * 377,
        "reserved_credits_micro": turn.reserved_credits_micro,
        "reserve_tokens": turn.reserve_tokens,
        "overshoot_capped": False,
        "policy_version_applied": 1,
        "web_search_calls": 0,
        "code_interpreter_calls": 0,
    }


async def test_what_was_reserved_and_charged_is_measured(ledger: Ledger, ann: Caller) -> None:
    turn = await ledger.send(ann, await ledger.new_chat(ann, model=PREMIUM))
    registry = ledger.context.metrics.registry

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"mini_chat_{name}", labels)

    decided = {"decision": "allow", "model": PREMIUM, "tier": "premium"}
    assert value("quota_preflight_total", **decided) == 1
    assert value("quota_preflight_v2_total", kind="text", **decided) == 1
    assert value("quota_reserve_total", period="monthly") == 1
    await measure_turns(ledger.context.sessions, ledger.context.metrics)
    assert value("quota_reserved_tokens", period="daily") == 0  # it was reserved on the day of the held clock
    usage = TokenUsage((turn.reserve_tokens or 0) * 2, 0)
    await ledger.end(turn, Ending.completed(text="Hi", usage=usage, response_id=None))
    assert value("quota_commit_total", period="daily") == 1
    assert value("quota_overshoot_total", period="daily") == 1
    assert value("quota_overshoot_exceeded_total") == 1
    assert value("quota_overshoot_tokens_sum") == turn.reserve_tokens
    assert value("quota_actual_tokens_sum") == turn.reserve_tokens
    assert value("outbox_enqueue_total", kind="usage_snapshot", result="ok") == 1


async def test_one_of_many_finalizations_settles(ledger: Ledger, ann: Caller) -> None:
    turn = await ledger.send(ann, await ledger.new_chat(ann))
    endings = [ending for ending, _ in CASES.values()]
    results = await asyncio.gather(*(ledger.end(turn, ending) for ending in endings))
    assert sum(result is not None for result in results) == 1


async def test_calls_and_images_are_counted_unless_the_turn_is_released(ledger: Ledger, ann: Caller) -> None:
    turn = await ledger.send(ann, await ledger.new_chat(ann))
    await change_turn(
        ledger.context.sessions, turn, web_search_completed_count=2, code_interpreter_completed_count=3, image_inputs=4
    )
    turn = await get_turn(ledger.context.sessions, turn)
    await ledger.end(turn, Ending.failed("provider_error", provider_started=True))
    row = (await ledger.buckets(ann))["daily", "total"]
    assert (row["web_search_calls"], row["code_interpreter_calls"], row["image_inputs"]) == (2, 3, 4)


async def test_a_turn_of_a_policy_that_cannot_be_read_ends(
    ledger: Ledger, ann: Caller, caplog: pytest.LogCaptureFixture
) -> None:
    """Another release, with other rules, has stored it: what was reserved is charged, and nothing stays reserved."""
    turn = await ledger.send(ann, await ledger.new_chat(ann, model=PREMIUM))
    payload = acceptance_catalog() | {"policy_version": 7}
    payload["providers"]["openai"]["kind"] = "novelty"
    stored = {"policy_version": 7, "payload": payload, "content_hash": "", "created_at": func.now()}
    async with ledger.context.sessions.begin() as session:
        await session.execute(insert(PolicySnapshot).values(stored))
    await change_turn(ledger.context.sessions, turn, policy_version_applied=7)
    turn = await get_turn(ledger.context.sessions, turn)
    assert await ledger.end(turn, CASES["the provider completed"][0]) is not None
    row = (await ledger.buckets(ann))["daily", "total"]
    assert (row["reserved_credits_micro"], row["spent_credits_micro"]) == (0, turn.reserved_credits_micro)
    assert "the price of a turn is unknown" in caplog.text


async def test_a_stuck_turn_is_settled_by_the_watchdog(
    ledger: Ledger, ann: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Estimated if a worker had it, released if none ever did; nothing stays reserved."""
    monkeypatch.setattr("worker.turns.outage.SERVER_AGE", "SELECT interval '1 day'")
    held, unheld = [await ledger.send(ann, await ledger.new_chat(ann)) for _ in range(2)]
    context = ledger.context
    stale = func.now() - timedelta(hours=2)
    await change_turn(
        context.sessions,
        held,
        attempt=1,
        lease_expires_at=func.now() + timedelta(seconds=10),
        last_progress_at=stale,
    )
    await change_turn(context.sessions, unheld, started_at=stale)
    watchdog = Watchdog(
        settings=context.settings,
        sessions=context.sessions,
        finalizer=ledger.finalizer,
        log=context.log,
        clock=ledger.clock,
        metrics=context.metrics,
        outage=OutageGuard(lease=timedelta(seconds=10), interval=timedelta(seconds=2)),
    )
    await watchdog.scan()
    for turn, method in ((held, "estimated"), (unheld, "released")):
        [event] = await events_of(ledger, turn, "usage_snapshot")
        assert (event["settlement_method"], event["outcome"]) == (method, "aborted")
    assert (await ledger.buckets(ann))["daily", "total"]["reserved_credits_micro"] == 0


async def test_a_turn_without_a_reserve_ends_without_settlement(ledger: Ledger, ann: Caller) -> None:
    turn = await ledger.send(ann, await ledger.new_chat(ann))
    await ledger.database.execute("UPDATE quota_usage SET reserved_credits_micro = 0")
    await change_turn(ledger.context.sessions, turn, reserved_credits_micro=None)
    turn = await get_turn(ledger.context.sessions, turn)
    assert await ledger.end(turn, Ending.failed("orphan_timeout", provider_started=True))
    assert await events_of(ledger, turn, "usage_snapshot") == []
    assert len(await events_of(ledger, turn, "audit")) == 1
    assert (await ledger.buckets(ann))["daily", "total"]["spent_credits_micro"] == 0


async def test_a_count_out_of_bounds_settles_by_the_estimate(
    ledger: Ledger, ann: Caller, caplog: pytest.LogCaptureFixture
) -> None:
    turn = await ledger.send(ann, await ledger.new_chat(ann))
    await ledger.end(turn, Ending.completed(text="Hi", usage=TokenUsage(MAX_TOKENS + 1, 1), response_id=None))
    [event] = await events_of(ledger, turn, "usage_snapshot")
    assert event["settlement_method"] == "estimated"
    assert [record.levelno for record in caplog.records if "out of bounds" in record.message] == [logging.CRITICAL]


async def test_a_bucket_with_too_little_reserved_is_floored_and_told(
    ledger: Ledger, ann: Caller, caplog: pytest.LogCaptureFixture
) -> None:
    turn = await ledger.send(ann, await ledger.new_chat(ann))
    await ledger.database.execute("UPDATE quota_usage SET reserved_credits_micro = 1 WHERE period_type = 'daily'")
    await ledger.end(turn, Ending.completed(text="Hi", usage=USAGE, response_id=None))
    assert (await ledger.buckets(ann))["daily", "total"]["reserved_credits_micro"] == 0
    assert [record.levelno for record in caplog.records if "had less reserved" in record.message] == [logging.ERROR]


async def test_rows_that_are_gone_are_made_again_with_the_charge(ledger: Ledger, ann: Caller) -> None:
    turn = await ledger.send(ann, await ledger.new_chat(ann, model=PREMIUM))
    await ledger.database.execute("DELETE FROM quota_usage WHERE period_type = 'monthly'")
    await ledger.end(turn, Ending.completed(text="Hi", usage=USAGE, response_id=None))
    rows = await ledger.buckets(ann)
    assert {row["spent_credits_micro"] for row in rows.values()} == {3 * 2_411 + 15 * 377}
    assert len(rows) == 4


async def test_a_turn_settles_by_the_policy_it_was_accepted_under(open_with: OpenLedger, ann: Caller) -> None:
    """Prices have risen since: the snapshot of its own version counts, read from the database."""
    async with open_with(acceptance_catalog()) as before:
        turn = await before.send(ann, await before.new_chat(ann))
    dearer = acceptance_catalog() | {"policy_version": 2}
    for model in dearer["model_catalog"]:
        model["input_tokens_credit_multiplier_micro"] *= 7
        model["tier"] = "premium"
    async with open_with(dearer) as after:
        await after.end(turn, Ending.completed(text="Hi", usage=USAGE, response_id=None))
        [event] = await events_of(after, turn, "usage_snapshot")
        assert (event["policy_version_applied"], event["committed_credits_micro"]) == (1, 3_542)
        assert await after.differences() == []
        assert {bucket for _, bucket in await after.buckets(ann)} == {"total"}


async def test_content_is_audited_only_if_wanted_and_without_secrets(open_with: OpenLedger, ann: Caller) -> None:
    for include in (False, True):
        async with open_with(acceptance_catalog(), audit={"include_content": include}) as ledger:
            turn = await ledger.send(ann, await ledger.new_chat(ann), "my key is sk-abcdefghijklmnop")
            await ledger.end(turn, Ending.completed(text="password=hunter2", usage=USAGE, response_id=None))
            [event] = await events_of(ledger, turn, "audit")
            if include:
                assert "sk-" not in event["prompt"]
                assert "hunter2" not in event["response"]
            else:
                assert not {"prompt", "response"} & event.keys()
            assert event["usage"]["model"] == STANDARD
            assert UUID(event["turn_id"]) == turn.id

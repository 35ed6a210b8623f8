"""`mini-chat turns` on real engines: what it shows, and what it does to turns that nobody, or somebody, holds."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from shared.clock import SystemClock
from shared.db.engine import Sessions
from shared.events import frames
from shared.events.ids import opening
from shared.events.log import EventLog
from shared.ids import new_uuid4
from shared.queue.queue import QUEUE_NAME, JobQueue
from shared.settings import Settings
from shared.turns.finalize import TurnFinalizer
from shared.turns.lifecycle import Ending, TokenUsage
from shared.turns.repository import TurnRepository
from shared.turns.tables import Turn
from shared.valkey.client import Valkey
from shared.valkey.keyspace import TurnKeys
from tests.support.commands import Outcome, mini_chat, variables_of
from tests.support.outbox_rows import stored_messages
from tests.support.turn_rows import change_turn, get_turn, insert_turn

NOW = SystemClock().now()
LIVE = NOW + timedelta(hours=1)
MINUTES = timedelta(minutes=10)
HELD: dict[str, Any] = {"attempt": 1, "lease_owner": "w1", "lease_expires_at": LIVE}
SECRET_WORDS = "what was said"


@pytest.fixture
def log(valkey: Valkey, settings: Settings) -> EventLog:
    return EventLog(valkey, settings)


async def turns(settings: Settings, *arguments: object) -> Outcome:
    return await mini_chat("turns", *arguments, variables=variables_of(settings))


async def say(log: EventLog, turn: Turn, *words: str, attempt: int = 1) -> None:
    """Write the log of an attempt as its worker does."""
    keys = TurnKeys(turn.chat_id, turn.request_id)
    started = frames.stream_started(request_id=turn.request_id, message_id=turn.planned_message_id, is_new_turn=True)
    restart = frames.restart(attempt=attempt, reason="worker_lost")
    await log.open_attempt(keys, attempt=attempt, started=started, restart=restart, refuse_restart=False)
    last = opening(attempt)
    for word in words:
        await log.append(keys, frames.delta(word), entry_id=last.next, after=last)
        last = last.next


async def waiting_jobs(valkey: Valkey) -> set[str]:
    return {job.decode() for job in await valkey.zrange(QUEUE_NAME, 0, -1)}


async def reasons(valkey: Valkey, settings: Settings) -> list[str]:
    """What the jobs that wait say about why there is another attempt; takes them."""
    return [job.read()[1]["reason"] for job in await JobQueue(valkey, settings).pick(at_most=9, in_progress_ms=1_000)]


async def test_turns_are_listed_by_what_becomes_of_them(settings: Settings, sessions: Sessions, valkey: Valkey) -> None:
    queued = await insert_turn(sessions, age=timedelta(seconds=30))
    held = await insert_turn(sessions, **HELD)
    stuck = await insert_turn(sessions, age=MINUTES, **HELD)
    lost = await insert_turn(sessions, age=timedelta(minutes=1), **(HELD | {"lease_expires_at": NOW}))
    failed = await insert_turn(sessions, age=timedelta(minutes=2))
    await change_turn(sessions, failed, state="failed", completed_at=NOW, error_code="provider_error")

    async def ids(*arguments: object) -> list[str]:
        return [one["id"] for one in (await turns(settings, "list", "--json", *arguments)).json]

    assert await ids() == [str(one.id) for one in (stuck, lost, queued, held)]
    assert await ids("--state", "queued") == [str(lost.id), str(queued.id)]
    assert await ids("--state", "stuck") == [str(stuck.id)]
    assert await ids("--state", "failed") == [str(failed.id)]
    assert await ids("--state", "all", "--limit", 2) == [str(held.id), str(queued.id)]
    assert await ids("--tenant", held.tenant_id) == await ids("--chat", held.chat_id) == [str(held.id)]

    table = await turns(settings, "list", "--state", "all")
    header, *rows = table.out.splitlines()
    assert header.split()[:5] == ["ID", "CHAT", "STATE", "ATTEMPT", "AGE"]
    phases = {row.split()[0]: row.split()[2] for row in rows}
    assert phases == {
        str(stuck.id): "stuck",
        str(lost.id): "queued",
        str(failed.id): "failed",
        str(queued.id): "queued",
        str(held.id): "running",
    }
    assert (await turns(settings, "list", "--state", "cancelled")).out == "No such turns.\n"


async def test_a_turn_s_history_is_shown_without_what_was_said(
    settings: Settings, sessions: Sessions, valkey: Valkey, log: EventLog, finalizer: TurnFinalizer
) -> None:
    """Attempts and events by id and kind, what it has cost, and the messages that tell of it."""
    reserve = {
        "reserve_tokens": 1_000,
        "reserved_credits_micro": 9_000,
        "policy_version_applied": 1,
        "minimal_generation_floor_applied": 50,
        "daily_period_start": NOW.date(),
        "monthly_period_start": NOW.date().replace(day=1),
    }
    turn = await insert_turn(sessions, **(HELD | reserve | {"attempt": 2, "lost_attempts": 1}))
    await say(log, turn, "lost")
    await say(log, turn, SECRET_WORDS, "!", attempt=2)
    running = await turns(settings, "show", turn.id)
    assert "held by w1 for" in running.out
    assert "none yet; 9000 micro-credits are reserved" in running.out

    ending = Ending.completed(text=SECRET_WORDS + "!", usage=TokenUsage(100, 20), response_id="resp_1")
    assert await finalizer.finalize(turn, ending, attempt=2) is not None
    shown = (await turns(settings, "show", "--json", f"{turn.chat_id}/{turn.request_id}")).json
    told = {name: shown["turn"][name] for name in ("id", "phase", "lost_attempts")}
    assert told == {"id": str(turn.id), "phase": "completed", "lost_attempts": 1}
    runs = [(one["event"], one["first_id"], one["last_id"], one["count"]) for one in shown["events"]]
    assert runs == [
        ("stream_started", "0-1", "0-1", 1),
        ("mark", "1-0", "1-0", 1),
        ("delta", "1-1", "1-1", 1),
        ("restart", "2-0", "2-0", 1),
        ("delta", "2-1", "2-2", 2),
    ]
    assert shown["settlement"]["settlement_method"] == "actual"
    assert shown["settlement"]["committed_credits_micro"] == 160
    assert {(one["queue"], one["state"]) for one in shown["outbox"]} == {
        ("audit", "pending"),
        ("usage_snapshot", "pending"),
    }
    plain = await turns(settings, "show", turn.id)
    assert plain.code == 0
    assert "actual: 160 of 9000 micro-credits reserved, 100 tokens in, 20 out" in plain.out
    assert SECRET_WORDS not in plain.out + str(shown)
    for form in ([], ["--json"]):
        assert SECRET_WORDS in (await turns(settings, "show", turn.id, "--content", *form)).out


async def test_a_turn_is_shown_while_valkey_is_away(settings: Settings, sessions: Sessions) -> None:
    turn = await insert_turn(sessions, error_detail="upstream\x1b[31m said no")
    variables = variables_of(settings) | {"REDIS__URL": "redis://127.0.0.1:9/0"}
    shown = await mini_chat("turns", "show", turn.id, variables=variables)
    assert shown.code == 0
    assert "unknown: Valkey or Redis cannot be asked" in shown.out
    assert "upstream [31m said no" in shown.out


async def test_a_turn_that_nobody_holds_is_ended_at_once(
    settings: Settings, sessions: Sessions, valkey: Valkey, log: EventLog
) -> None:
    turn = await insert_turn(sessions, **(HELD | {"lease_expires_at": NOW}))
    await say(log, turn, "so ", "far")
    stopped = await turns(settings, "cancel", turn.id)
    assert (stopped.code, stopped.out) == (0, f"{turn.id}: has ended; the text so far is kept\n")
    stored = await get_turn(sessions, turn)
    assert (stored.state, stored.cancel_trigger) == ("cancelled", "user_stop")
    newest = await log.newest(TurnKeys(turn.chat_id, turn.request_id))
    assert newest is not None
    assert newest.event == b"error"
    assert {one.payload_type for one in await stored_messages(sessions)} == {"turn_failed"}


async def test_the_holder_of_a_turn_is_told_to_stop(settings: Settings, sessions: Sessions, valkey: Valkey) -> None:
    turn, unknown = await insert_turn(sessions, **HELD), new_uuid4()
    stopped = await turns(settings, "cancel", turn.id, unknown, "--json")
    assert stopped.json == [
        {"id": str(turn.id), "outcome": "requested"},
        {"id": str(unknown), "outcome": "not_found"},
    ]
    assert stopped.code == 1
    stored = await get_turn(sessions, turn)
    assert stored.state == "running"
    assert stored.cancel_requested_at is not None
    assert await valkey.exists(TurnKeys(turn.chat_id, turn.request_id).cancel)


async def test_a_turn_that_is_handed_back_is_lost_to_its_worker(
    settings: Settings, sessions: Sessions, valkey: Valkey, log: EventLog, finalizer: TurnFinalizer
) -> None:
    """Though its lease was live, it can neither renew it nor end the turn; another worker can claim it at once."""
    turn = await insert_turn(sessions, age=MINUTES, **HELD)
    handed = await turns(settings, "hand-back", turn.id)
    assert (handed.code, handed.out) == (0, f"{turn.id}: taken from its worker; another one starts it over\n")
    assert await waiting_jobs(valkey) == {f"{turn.id}:3"}
    assert await reasons(valkey, settings) == ["drain"]
    lease = timedelta(seconds=10)
    async with sessions.begin() as session:
        assert await TurnRepository(session).renew([(turn.id, 1)], progressing=[turn.id], lease=lease) == []
    ending = Ending.completed(text="late", usage=None, response_id=None)
    assert await finalizer.finalize(turn, ending, attempt=1) is None
    async with sessions.begin() as session:
        claimed = await TurnRepository(session).claim(turn.id, attempt=3, owner="w2", lease=lease)
    assert claimed is not None
    assert (claimed.lease_owner, claimed.lost_attempts) == ("w2", 0)


async def test_a_turn_that_nobody_holds_is_queued_again(settings: Settings, sessions: Sessions, valkey: Valkey) -> None:
    """It keeps the attempt that its dead worker has lost."""
    fresh = await insert_turn(sessions)
    lost = await insert_turn(sessions, **(HELD | {"lease_expires_at": NOW}))
    handed = await turns(settings, "hand-back", fresh.id, lost.id, "--json")
    assert [one["outcome"] for one in handed.json] == ["queued", "queued"]
    assert await waiting_jobs(valkey) == {f"{fresh.id}:1", f"{lost.id}:2"}
    assert sorted(await reasons(valkey, settings)) == ["first", "worker_lost"]
    assert (await get_turn(sessions, lost)).lease_expires_at is not None


async def test_a_turn_that_would_fail_is_left_alone(
    settings: Settings, sessions: Sessions, valkey: Valkey, log: EventLog
) -> None:
    shown = await insert_turn(sessions, on_worker_loss="fail", **HELD)
    silent = await insert_turn(sessions, on_worker_loss="fail", **HELD)
    await say(log, shown, "something")
    await say(log, silent)
    ended = await insert_turn(sessions)
    await change_turn(sessions, ended, state="completed", completed_at=NOW)
    handed = await turns(settings, "hand-back", shown.id, silent.id, ended.id, "--json")
    assert [one["outcome"] for one in handed.json] == ["would_fail", "handed_back", "ended"]
    assert handed.code == 1
    assert (await get_turn(sessions, shown)).lease_owner == "w1"


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["show", "x"], "ID|CHAT/REQUEST"),
        (["cancel"], "required"),
        (["list", "--limit", "0"], "must be a number, 1 or more"),
        (["list", "--state", "lost"], "invalid choice"),
        (["list"], "database.url: not set"),
    ],
)
async def test_wrong_use_is_exit_code_2(arguments: list[str], hint: str) -> None:
    refused = await mini_chat("turns", *arguments)
    assert refused.code == 2
    assert hint in refused.err


async def test_an_unknown_turn_is_exit_code_1(settings: Settings) -> None:
    refused = await turns(settings, "show", new_uuid4())
    assert (refused.code, refused.err) == (1, "mini-chat: there is no such turn\n")

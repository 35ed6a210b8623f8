"""Replaying and resolving, in the database and as an operator does it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from shared.clock import SystemClock
from shared.db.engine import Sessions
from shared.outbox.dead_letters import DeadLetters
from shared.outbox.tables import OutboxDeadLetter
from tests.support.outbox_rows import dead_letters, insert_messages, stored_messages


async def insert_letters(sessions: Sessions, *ids: int, **columns: Any) -> None:
    now = SystemClock().now()
    async with sessions.begin() as session:
        for number in ids:
            values = {
                "queue": "audit",
                "partition_key": "k",
                "payload_type": "t",
                "payload": {"name": str(number)},
                "dedupe_key": f"d{number}",
                "attempts": 20,
                "created_at": now,
                "failed_at": now,
                "reason": "DeliveryError: answered\n500",
            }
            session.add(OutboxDeadLetter(id=number, **(values | columns)))


async def test_a_replay_queues_the_message_anew_and_resolves_the_letter(sessions: Sessions) -> None:
    await insert_letters(sessions, 1_000, 1_001, 1_002)
    async with sessions.begin() as session:
        replayed = await DeadLetters(session).replay(ids=[1_000, 1_002, 5])
    assert (replayed.queued, replayed.duplicates) == ([1_000, 1_002], [])
    queued = await stored_messages(sessions)
    assert [(one.payload["name"], one.dedupe_key, one.attempts) for one in queued] == [
        ("1000", "d1000", 0),
        ("1002", "d1002", 0),
    ]
    assert [letter.resolved_at is None for letter in await dead_letters(sessions)] == [False, True, False]


async def test_a_second_replay_does_nothing(sessions: Sessions) -> None:
    await insert_letters(sessions, 1_000)
    for expected in ([1_000], []):
        async with sessions.begin() as session:
            assert (await DeadLetters(session).replay(queue="audit")).queued == expected
    assert len(await stored_messages(sessions)) == 1


async def test_a_message_that_is_there_already_is_not_queued_twice(sessions: Sessions) -> None:
    await insert_letters(sessions, 1_000)
    await insert_messages(sessions, "the same", queue="audit", dedupe_key="d1000")
    async with sessions.begin() as session:
        replayed = await DeadLetters(session).replay(ids=[1_000])
    assert (replayed.queued, replayed.duplicates) == ([], [1_000])
    assert [one.payload["name"] for one in await stored_messages(sessions)] == ["the same"]
    assert (await dead_letters(sessions))[0].resolved_at is not None


async def test_resolving_is_idempotent(sessions: Sessions) -> None:
    await insert_letters(sessions, 1_000, 1_001)
    for expected in ([1_000], []):
        async with sessions.begin() as session:
            assert await DeadLetters(session).resolve(ids=[1_000]) == expected
    async with sessions() as session:
        assert [letter.id for letter in await DeadLetters(session).list_open()] == [1_001]
    assert await stored_messages(sessions) == []


async def test_only_usage_counts_as_lost_usage(sessions: Sessions) -> None:
    async def has_open_usage() -> bool:
        async with sessions() as session:
            return await DeadLetters(session).has_open_usage()

    await insert_letters(sessions, 1_000)
    assert not await has_open_usage()
    await insert_letters(sessions, 1_001, queue="usage_snapshot")
    assert await has_open_usage()
    async with sessions.begin() as session:
        await DeadLetters(session).resolve(ids=[1_001])
    assert not await has_open_usage()


def command(database_url: str | None, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MINI_CHAT_")}
    if database_url is not None:
        environment["MINI_CHAT_DATABASE__URL"] = database_url
    script = str(Path(sys.executable).with_name("mini-chat"))
    return subprocess.run(
        [sys.executable, script, "outbox", *arguments], env=environment, capture_output=True, text=True, timeout=60
    )


async def test_the_command_lists_replays_and_resolves(sessions: Sessions, database_url: str) -> None:
    await insert_letters(sessions, 1_000, 1_001)
    await insert_letters(sessions, 2_000, queue="usage_snapshot")

    listed = command(database_url, "list")
    assert listed.returncode == 0, listed.stderr
    header, *rows = listed.stdout.splitlines()
    assert header.split() == ["ID", "QUEUE", "KEY", "ATTEMPTS", "FAILED", "AT", "REASON"]
    assert [row.split()[0] for row in rows] == ["1000", "1001", "2000"]
    assert rows[0].endswith("DeliveryError: answered 500")

    (usage,) = json.loads(command(database_url, "list", "--queue", "usage_snapshot", "--json").stdout)
    assert (usage["id"], usage["payload"], usage["dedupe_key"]) == (2_000, {"name": "2000"}, "d2000")

    replayed = command(database_url, "replay", "1000", "77")
    assert (replayed.returncode, replayed.stdout) == (1, "replayed: 1000\n")
    assert replayed.stderr == "mini-chat: no unresolved dead letter: 77\n"
    everything = command(database_url, "replay", "--all-of", "audit", "--json")
    assert everything.returncode == 0
    assert json.loads(everything.stdout) == {"replayed": [1_001], "already_queued": [], "not_found": []}
    resolved = command(database_url, "resolve", "2000")
    assert (resolved.returncode, resolved.stdout) == (0, "resolved: 2000\n")

    assert command(database_url, "list").stdout == "No unresolved dead letters.\n"
    assert [one.payload["name"] for one in await stored_messages(sessions)] == ["1000", "1001"]


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["replay"], "required"),
        (["replay", "1", "--all-of", "audit"], "not allowed"),
        (["resolve"], "required"),
        (["resolve", "x"], "ID"),
        (["resolve", "0"], "not the id of a dead letter"),
        (["list"], "run.json as database_url"),
    ],
)
def test_wrong_use_is_exit_code_2(arguments: list[str], hint: str) -> None:
    refused = command(None, *arguments)
    assert refused.returncode == 2
    assert hint in refused.stderr


def test_a_database_that_is_away_is_exit_code_1() -> None:
    failed = command("postgresql://nobody@127.0.0.1:9/none", "list")
    assert failed.returncode == 1
    assert failed.stderr.startswith("mini-chat: the database cannot be used: ")
    assert failed.stderr.count("\n") == 1

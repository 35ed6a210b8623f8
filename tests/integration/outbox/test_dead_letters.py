"""Replaying and resolving, in the database and as an operator does it."""

from __future__ import annotations

from typing import Any

import pytest

from shared.clock import SystemClock
from shared.db.engine import Sessions
from shared.outbox.dead_letters import DeadLetters
from shared.outbox.tables import OutboxDeadLetter
from tests.support.commands import Outcome, mini_chat
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


async def command(database_url: str | None, *arguments: object) -> Outcome:
    variables = {} if database_url is None else {"DATABASE__URL": database_url}
    return await mini_chat("outbox", *arguments, variables=variables)


async def test_the_command_lists_replays_and_resolves(sessions: Sessions, database_url: str) -> None:
    await insert_letters(sessions, 1_000, 1_001)
    await insert_letters(sessions, 2_000, queue="usage_snapshot")

    listed = await command(database_url, "list")
    assert listed.code == 0, listed.err
    header, *rows = listed.out.splitlines()
    assert header.split() == ["ID", "QUEUE", "KEY", "ATTEMPTS", "FAILED", "AT", "REASON"]
    assert [row.split()[0] for row in rows] == ["1000", "1001", "2000"]
    assert rows[0].endswith("DeliveryError: answered 500")

    (usage,) = (await command(database_url, "list", "--queue", "usage_snapshot", "--json")).json
    assert (usage["id"], usage["payload"], usage["dedupe_key"]) == (2_000, {"name": "2000"}, "d2000")

    replayed = await command(database_url, "replay", "1000", "77")
    assert (replayed.code, replayed.out) == (1, "replayed: 1000\n")
    assert replayed.err == "mini-chat: no unresolved dead letter: 77\n"
    everything = await command(database_url, "replay", "--all-of", "audit", "--json")
    assert everything.code == 0
    assert everything.json == {"replayed": [1_001], "already_queued": [], "not_found": []}
    resolved = await command(database_url, "resolve", "2000")
    assert (resolved.code, resolved.out) == (0, "resolved: 2000\n")

    assert (await command(database_url, "list")).out == "No unresolved dead letters.\n"
    assert [one.payload["name"] for one in await stored_messages(sessions)] == ["1000", "1001"]


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["replay"], "required"),
        (["replay", "1", "--all-of", "audit"], "not allowed"),
        (["resolve"], "required"),
        (["resolve", "x"], "ID: not the id of a dead letter"),
        (["resolve", "0"], "not the id of a dead letter"),
        (["list"], "run.json as database_url"),
    ],
)
async def test_wrong_use_is_exit_code_2(arguments: list[str], hint: str) -> None:
    refused = await command(None, *arguments)
    assert refused.code == 2
    assert hint in refused.err


async def test_a_queue_that_does_not_exist_is_refused(sessions: Sessions, database_url: str) -> None:
    """Of a name with a slip in it "none" would be the wrong answer; queues of a newer release are taken."""
    await insert_letters(sessions, 1_000, queue="of_a_newer_release")
    for arguments in (("list", "--queue", "audits"), ("replay", "--all-of", "audits")):
        refused = await command(database_url, *arguments)
        assert (refused.code, refused.out) == (2, "")
        assert refused.err.startswith("mini-chat: there is no queue audits; there are usage_snapshot, audit, ")
    assert (await command(database_url, "list", "--queue", "chat_cleanup")).out == "No unresolved dead letters.\n"
    assert (await command(database_url, "replay", "--all-of", "of_a_newer_release")).out == "replayed: 1000\n"


async def test_a_database_that_is_away_is_exit_code_1() -> None:
    failed = await command("postgresql://nobody@127.0.0.1:9/none", "list")
    assert failed.code == 1
    assert failed.err.startswith("mini-chat: the database cannot be used: ")
    assert failed.err.count("\n") == 1

"""The laws of the event log, on a real Valkey: who may write, what a writer is told, and what is announced."""

from __future__ import annotations

import asyncio

from shared.events import frames
from shared.events.frames import Frame
from shared.events.ids import EntryId
from shared.events.log import SAFETY_TTL_SECS, Appended, Entry, EventLog, Opened
from shared.ids import new_uuid4
from shared.settings import Settings
from shared.valkey.client import Valkey
from shared.valkey.keyspace import TurnKeys
from shared.valkey.scripts import run_scripts

STARTED_FRAME = frames.stream_started(request_id=new_uuid4(), message_id=new_uuid4(), is_new_turn=True)
DONE = frames.done(usage=None, effective_model="m", selected_model="m", quota_decision="allow")


async def open_log(log: EventLog, valkey: Valkey, keys: TurnKeys) -> bytes:
    [answer] = await run_scripts(valkey, [log.opening(keys, STARTED_FRAME)])
    assert isinstance(answer, bytes)
    return answer


async def open_attempt(log: EventLog, keys: TurnKeys, attempt: int, *, refuse_restart: bool = False) -> Opened:
    return await log.open_attempt(
        keys,
        attempt=attempt,
        started=STARTED_FRAME,
        restart=frames.restart(attempt=attempt, reason="worker_lost"),
        refuse_restart=refuse_restart,
    )


async def append(
    log: EventLog, keys: TurnKeys, after: str, frame: Frame | None = None, *, is_stoppable: bool = True
) -> Appended:
    last = EntryId.parse(after)
    return await log.append(keys, frame or frames.delta("x"), entry_id=last.next, after=last, is_stoppable=is_stoppable)


async def ids(log: EventLog, keys: TurnKeys) -> list[tuple[str, str]]:
    return [(entry.id.decode(), entry.event.decode()) for entry in await log.read(keys, count=100)]


async def test_a_turn_is_written_in_order(log: EventLog, valkey: Valkey, keys: TurnKeys) -> None:
    """Start by the API, mark by the first attempt, events with contiguous ids, and the end."""
    assert await open_log(log, valkey, keys) == b"taken"
    assert await open_attempt(log, keys, 1) == Opened(Appended.TAKEN)
    assert await append(log, keys, "1-0") is Appended.TAKEN
    assert await append(log, keys, "1-1", frames.tool("start", "web_search", {})) is Appended.TAKEN
    assert await append(log, keys, "1-2", DONE) is Appended.TAKEN

    assert await ids(log, keys) == [
        ("0-1", "stream_started"),
        ("1-0", "mark"),
        ("1-1", "delta"),
        ("1-2", "tool"),
        ("1-3", "done"),
    ]


async def test_a_log_is_created_once(log: EventLog, valkey: Valkey, keys: TurnKeys) -> None:
    await open_log(log, valkey, keys)
    assert await open_log(log, valkey, keys) == b"already"
    assert len(await ids(log, keys)) == 1


async def test_every_log_expires(log: EventLog, valkey: Valkey, keys: TurnKeys) -> None:
    """A safety TTL from birth, whoever creates the log; a short one after the end."""
    settings = Settings()
    await open_attempt(log, keys, 1)
    assert settings.turns.max_age_secs < await valkey.ttl(keys.events) <= settings.turns.max_age_secs + SAFETY_TTL_SECS
    await append(log, keys, "1-0")
    assert await valkey.ttl(keys.events) > settings.event_log.ttl_secs
    await append(log, keys, "1-1", DONE)
    assert 0 < await valkey.ttl(keys.events) <= settings.event_log.ttl_secs


async def test_a_claim_creates_a_log_that_the_api_did_not(log: EventLog, keys: TurnKeys) -> None:
    await open_attempt(log, keys, 1)
    assert await ids(log, keys) == [("0-1", "stream_started"), ("1-0", "mark")]


async def test_an_append_creates_no_log(log: EventLog, valkey: Valkey, keys: TurnKeys) -> None:
    assert await append(log, keys, "1-0") is Appended.LOST
    assert await valkey.exists(keys.events) == 0


async def test_a_repeat_after_a_lost_answer_is_a_success(log: EventLog, valkey: Valkey, keys: TurnKeys) -> None:
    """The same entry offered again is told to be there already, and is there once."""
    await open_log(log, valkey, keys)
    assert await open_attempt(log, keys, 1) == Opened(Appended.TAKEN)
    assert await open_attempt(log, keys, 1) == Opened(Appended.ALREADY)
    await append(log, keys, "1-0")
    assert await append(log, keys, "1-0") is Appended.ALREADY
    assert [entry[0] for entry in await ids(log, keys)] == ["0-1", "1-0", "1-1"]


async def test_an_older_attempt_is_fenced_off(log: EventLog, valkey: Valkey, keys: TurnKeys) -> None:
    """From the opening of attempt 2 on, attempt 1 can write nothing more, not even an end."""
    await open_log(log, valkey, keys)
    await open_attempt(log, keys, 1)
    await append(log, keys, "1-0")
    assert await open_attempt(log, keys, 2) == Opened(Appended.TAKEN, has_restarted=True)
    assert await append(log, keys, "1-1") is Appended.SUPERSEDED
    assert await append(log, keys, "1-1", DONE, is_stoppable=False) is Appended.SUPERSEDED
    assert (await open_attempt(log, keys, 1)).outcome is Appended.SUPERSEDED


async def test_a_new_attempt_is_unseen_while_nothing_was_shown(log: EventLog, valkey: Valkey, keys: TurnKeys) -> None:
    """Attempts that showed nothing follow each other without a restart, also after one that did restart."""
    await open_log(log, valkey, keys)
    for attempt in (1, 2):
        assert await open_attempt(log, keys, attempt) == Opened(Appended.TAKEN, has_restarted=False)
    await append(log, keys, "2-0")
    assert await open_attempt(log, keys, 3) == Opened(Appended.TAKEN, has_restarted=True)
    assert await open_attempt(log, keys, 4) == Opened(Appended.TAKEN, has_restarted=False)


async def test_a_lost_log_counts_as_shown(log: EventLog, keys: TurnKeys) -> None:
    """Nobody knows what clients have seen of attempt 1, so attempt 2 tells them to start over."""
    assert await open_attempt(log, keys, 2) == Opened(Appended.TAKEN, has_restarted=True)
    assert await ids(log, keys) == [("0-1", "stream_started"), ("2-0", "restart")]


async def test_a_refused_restart_writes_nothing(log: EventLog, valkey: Valkey, keys: TurnKeys) -> None:
    assert await open_attempt(log, keys, 2, refuse_restart=True) == Opened(Appended.REFUSED)
    assert await valkey.exists(keys.events) == 0
    await open_attempt(log, keys, 1, refuse_restart=True)
    await append(log, keys, "1-0")
    before = await ids(log, keys)
    assert await open_attempt(log, keys, 2, refuse_restart=True) == Opened(Appended.REFUSED)
    assert await ids(log, keys) == before


async def test_a_lost_tail_is_told_to_the_writer(log: EventLog, valkey: Valkey, keys: TurnKeys) -> None:
    await open_attempt(log, keys, 1)
    for last in ("1-0", "1-1", "1-2"):
        await append(log, keys, last)
    await valkey.xdel(keys.events, "1-2", "1-3")
    assert await append(log, keys, "1-3") is Appended.LOST


async def test_a_stop_refuses_content_but_not_the_end(log: EventLog, valkey: Valkey, keys: TurnKeys) -> None:
    await open_attempt(log, keys, 1)
    await append(log, keys, "1-0")
    await valkey.set(keys.cancel, "user_stop", ex=60)
    assert await append(log, keys, "1-1") is Appended.CANCELLED
    assert await append(log, keys, "1-1", frames.error("cancelled", "…"), is_stoppable=False) is Appended.TAKEN


async def test_a_lost_log_is_rebuilt_under_the_next_attempt(log: EventLog, valkey: Valkey, keys: TurnKeys) -> None:
    events = [frames.tool("start", "web_search", {}), frames.delta("all so far")]
    restart = frames.restart(attempt=2, reason="log_lost")

    async def rebuild() -> Appended:
        return await log.rebuild(keys, attempt=2, started=STARTED_FRAME, restart=restart, frames=events)

    assert await rebuild() is Appended.TAKEN
    assert await rebuild() is Appended.ALREADY
    assert await ids(log, keys) == [
        ("0-1", "stream_started"),
        ("2-0", "restart"),
        ("2-1", "tool"),
        ("2-2", "delta"),
    ]
    assert await valkey.ttl(keys.events) > 0
    await open_attempt(log, keys, 3)
    assert await rebuild() is Appended.SUPERSEDED


async def test_an_end_from_outside_fences_off_the_worker(log: EventLog, valkey: Valkey, keys: TurnKeys) -> None:
    """Who ends the turn of a lost worker writes as the next attempt; nothing can follow it."""
    orphaned = frames.error("orphan_timeout", "…")
    assert await log.end(keys, orphaned, attempt=1) is Appended.LOST
    assert await valkey.exists(keys.events) == 0
    await open_attempt(log, keys, 1)
    assert await log.end(keys, orphaned, attempt=1) is Appended.TAKEN
    assert (await ids(log, keys))[-1] == ("2-1", "error")
    assert await append(log, keys, "1-0") is Appended.SUPERSEDED
    assert (await open_attempt(log, keys, 2)).outcome is Appended.SUPERSEDED
    assert await log.end(keys, orphaned, attempt=5) is Appended.SUPERSEDED


async def test_what_is_taken_is_announced_with_its_predecessor(log: EventLog, valkey: Valkey, keys: TurnKeys) -> None:
    """Exactly the taken entries are published, each with the id before it and the same bytes that the log holds."""
    async with valkey.pubsub(ignore_subscribe_messages=True) as subscriber:
        await subscriber.subscribe(keys.live)
        await open_log(log, valkey, keys)
        await open_attempt(log, keys, 1)
        await append(log, keys, "1-0")
        await append(log, keys, "1-0")
        await open_attempt(log, keys, 2)
        await append(log, keys, "1-1")
        await append(log, keys, "2-0", DONE)
        announced: list[tuple[bytes, Entry]] = []
        async with asyncio.timeout(5):
            while len(announced) < 5:
                message = await subscriber.get_message(timeout=1)
                if message is not None:
                    head, _, body = message["data"].partition(b"\n")
                    previous, entry_id, event = head.split(b" ")
                    announced.append((previous, Entry(entry_id, event, body)))
        assert await subscriber.get_message(timeout=0.05) is None
    stored = await log.read(keys, count=100)
    assert [entry for _, entry in announced] == stored
    assert [previous for previous, _ in announced] == [b"", *(entry.id for entry in stored[:-1])]


async def test_two_chats_with_one_request_id_have_two_logs(log: EventLog, valkey: Valkey, keys: TurnKeys) -> None:
    other = TurnKeys(new_uuid4(), keys.request_id)
    await open_log(log, valkey, keys)
    assert await log.newest(other) is None


async def test_the_server_may_forget_scripts(log: EventLog, valkey: Valkey, keys: TurnKeys) -> None:
    """A restarted server knows no script: the call that meets it sends the text, also inside a pipeline."""
    await valkey.script_flush()
    assert await open_log(log, valkey, keys) == b"taken"
    await valkey.script_flush()
    assert (await open_attempt(log, keys, 1)).outcome is Appended.TAKEN

"""The promises of delivery, on a real PostgreSQL: order, one at a time, at least once, dead letters."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from sqlalchemy import func, select, update

from shared.db.engine import Sessions
from shared.metrics import Metrics
from shared.outbox.repository import SLOTS, Message, OutboxRepository, slots_of
from shared.outbox.tables import OutboxMessage
from shared.settings import OutboxSettings
from tests.integration.outbox.deliveries import FAST, Recorder, delivery, running
from tests.support.outbox_rows import count_undelivered, dead_letters, insert_messages, stored_messages
from tests.support.waiting import wait_until
from worker.outbox.handlers import RejectedMessageError

NEVER_POLL = FAST.model_copy(update={"poll_interval_ms": 600_000})


async def wait_until_delivered(sessions: Sessions) -> None:
    async def is_empty() -> bool:
        return await count_undelivered(sessions) == 0

    await wait_until(is_empty, timeout=30, interval=0.05)


async def test_messages_of_a_key_arrive_in_order(sessions: Sessions) -> None:
    names = [str(number) for number in range(40)]
    await insert_messages(sessions, *names)
    recorder = Recorder()
    async with running(delivery(sessions, recorder)):
        await wait_until_delivered(sessions)
    assert recorder.tried == names
    assert all(message.locked_by is None for message in await stored_messages(sessions))


async def test_eight_deliverers_share_the_work_and_keep_the_order(sessions: Sessions) -> None:
    keys = [f"key-{number}" for number in range(12)]
    names = [str(number) for number in range(10)]
    for key in keys:
        await insert_messages(sessions, *names, key=key)
    recorder = Recorder()
    partitions = (1, 2, 4, 8, 1, 2, 4, 4)
    deliverers = [
        delivery(sessions, recorder, settings=FAST.model_copy(update={"partitions": number})) for number in partitions
    ]
    async with running(*deliverers):
        await wait_until_delivered(sessions)
    assert recorder.done == dict.fromkeys(keys, names)
    assert len(recorder.tries) == len(keys) * len(names)
    assert recorder.overlaps == 0


async def test_a_failed_message_is_tried_again_before_its_followers(sessions: Sessions) -> None:
    await insert_messages(sessions, "a", "b")
    await insert_messages(sessions, "other", key="other")

    async def fail_first(message: Message) -> None:
        if message.payload["name"] == "a" and message.attempts < 2:
            raise ConnectionError("no route")

    recorder, metrics = Recorder(act=fail_first), Metrics("test")
    async with running(delivery(sessions, recorder, metrics=metrics)):
        await wait_until_delivered(sessions)
    assert [name for name in recorder.tried if name != "other"] == ["a", "a", "a", "b"]
    first = (await stored_messages(sessions))[0]
    assert (first.attempts, first.last_error) == (2, "ConnectionError: no route")
    count = metrics.registry.get_sample_value
    assert count("test_outbox_handler_total", {"kind": "test", "result": "retry"}) == 2
    assert count("test_outbox_handler_total", {"kind": "test", "result": "ok"}) == 3


async def test_a_message_in_back_off_keeps_its_followers_back(sessions: Sessions) -> None:
    await insert_messages(sessions, "a")
    async with sessions.begin() as session:
        await session.execute(update(OutboxMessage).values(available_at=func.now() + timedelta(hours=1), attempts=1))
    await insert_messages(sessions, "b")
    await insert_messages(sessions, "other", key="other")
    recorder = Recorder()
    async with running(delivery(sessions, recorder)):
        await wait_until(lambda: recorder.done["other"] == ["other"])
        async with sessions.begin() as session:
            await session.execute(update(OutboxMessage).values(available_at=func.now()))
        await wait_until_delivered(sessions)
    assert recorder.done["k"] == ["a", "b"]


@pytest.mark.parametrize(("error", "tries"), [(RejectedMessageError("no such chat"), 1), (ValueError("bad"), 3)])
async def test_a_dead_letter_frees_its_followers(sessions: Sessions, error: Exception, tries: int) -> None:
    await insert_messages(sessions, "a", dedupe_key="once")
    await insert_messages(sessions, "b")

    async def fail_first(message: Message) -> None:
        if message.payload["name"] == "a":
            raise error

    recorder = Recorder(act=fail_first)
    async with running(delivery(sessions, recorder)):
        await wait_until_delivered(sessions)
    assert recorder.tried == ["a"] * tries + ["b"]
    assert [message.payload["name"] for message in await stored_messages(sessions)] == ["b"]
    (letter,) = await dead_letters(sessions)
    assert (letter.payload, letter.dedupe_key, letter.attempts) == ({"name": "a"}, "once", tries)
    assert str(error) in (letter.reason or "")


async def test_an_unknown_queue_is_left_alone(sessions: Sessions) -> None:
    await insert_messages(sessions, "a", queue="of_a_newer_release")
    await insert_messages(sessions, "b")
    recorder = Recorder()
    async with running(delivery(sessions, recorder)):
        await wait_until(lambda: recorder.tried == ["b"])
    (newer, _) = await stored_messages(sessions)
    assert (newer.attempts, newer.locked_by, newer.delivered_at) == (0, None, None)


async def test_a_wake_up_needs_no_poll(sessions: Sessions) -> None:
    recorder = Recorder()
    woken = delivery(sessions, recorder, settings=NEVER_POLL)
    await insert_messages(sessions, "before")
    async with running(woken):
        await wait_until_delivered(sessions)
        await insert_messages(sessions, "after")
        woken.wake()
        await wait_until_delivered(sessions)
    assert recorder.tried == ["before", "after"]


async def test_what_a_dead_worker_held_is_delivered_when_its_lease_has_run_out(sessions: Sessions) -> None:
    """It died after the handler and before the commit: the message comes again, and so do its followers."""
    await insert_messages(sessions, "a", "b")
    async with sessions.begin() as session:
        slots = slots_of(0, partitions=1)
        repository = OutboxRepository(session)
        claim = await repository.claim(slots, {"test": 9}, run=9, token="dead", lease=timedelta(minutes=1))
    assert [message.payload["name"] for message in claim.messages] == ["a", "b"]
    await insert_messages(sessions, "c")
    await insert_messages(sessions, "other", key="other")
    recorder = Recorder()
    async with running(delivery(sessions, recorder)):
        await wait_until(lambda: recorder.done["other"] == ["other"])
        assert recorder.done["k"] == []
        async with sessions.begin() as session:
            await session.execute(
                update(OutboxMessage).where(OutboxMessage.locked_by == "dead").values(locked_until=func.now())
            )
        await wait_until_delivered(sessions)
    assert recorder.done["k"] == ["a", "b", "c"]


async def test_a_long_delivery_keeps_its_lease(sessions: Sessions) -> None:
    """It takes until the lease has been renewed twice, beside a second worker that would take it over."""
    await insert_messages(sessions, "a")
    leases = set()

    async def is_renewed_twice() -> bool:
        async with sessions() as session:
            leases.add(await session.scalar(select(OutboxMessage.locked_until)))
        return len(leases) == 3

    async def take_long(_message: Message) -> None:
        await wait_until(is_renewed_twice)

    recorder = Recorder(act=take_long)
    short = FAST.model_copy(update={"lease_secs": 3})
    async with running(*(delivery(sessions, recorder, settings=short) for _ in range(2))):
        await wait_until_delivered(sessions)
    assert recorder.tried == ["a"]


async def test_a_handler_ends_when_its_lease_is_taken(sessions: Sessions) -> None:
    """A paused process finds its message with somebody else: it must stop, and settle nothing."""
    await insert_messages(sessions, "a")
    ended = asyncio.Event()

    async def hang(_message: Message) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    recorder = Recorder(act=hang)
    async with running(delivery(sessions, recorder, settings=FAST.model_copy(update={"lease_secs": 0.3}))):
        await wait_until(lambda: recorder.tried == ["a"])
        async with sessions.begin() as session:
            later = func.now() + timedelta(hours=1)
            await session.execute(update(OutboxMessage).values(locked_by="somebody else", locked_until=later))
        await asyncio.wait_for(ended.wait(), 5)
    (message,) = await stored_messages(sessions)
    assert (message.locked_by, message.attempts, message.delivered_at) == ("somebody else", 0, None)


async def test_a_stopping_worker_lets_go(sessions: Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next worker need not wait for the lease, and the interrupted try does not count."""
    monkeypatch.setattr("worker.outbox.delivery.GRACE_SECS", 0.05)
    await insert_messages(sessions, "a", "b")

    async def hang(_message: Message) -> None:
        await asyncio.Event().wait()

    recorder = Recorder(act=hang)
    async with running(delivery(sessions, recorder)):
        await wait_until(lambda: recorder.tried == ["a"])
    assert [(message.locked_by, message.attempts) for message in await stored_messages(sessions)] == [(None, 0)] * 2


async def test_a_slow_queue_does_not_hold_another_up(sessions: Sessions) -> None:
    release = asyncio.Event()

    async def wait(_message: Message) -> None:
        await release.wait()

    slow, quick = Recorder(queue="slow", act=wait), Recorder(queue="quick")
    for number in range(40):
        await insert_messages(sessions, "x", queue="slow", key=str(number))
    async with running(delivery(sessions, slow, quick, settings=FAST.model_copy(update={"partitions": 1}))):
        await wait_until(lambda: len(slow.tries) >= 16)
        await insert_messages(sessions, "y", queue="quick")
        await wait_until(lambda: quick.tried == ["y"])
        release.set()
        await wait_until_delivered(sessions)


async def test_every_key_is_served_whatever_the_number_of_partitions(sessions: Sessions) -> None:
    for number in range(100):
        await insert_messages(sessions, "x", key=str(number))
    for partitions in (1, 4, SLOTS):
        taken: list[int] = []
        for partition in range(partitions):
            async with sessions() as session:
                repository = OutboxRepository(session)
                claim = await repository.claim(
                    slots_of(partition, partitions=partitions),
                    {"test": 1_000},
                    run=1,
                    token="t",
                    lease=timedelta(minutes=1),
                )
                taken += [message.id for message in claim.messages]
                await session.rollback()
        assert len(taken) == len(set(taken)) == 100


def test_the_settings_default_to_a_lease_that_outlives_a_poll() -> None:
    assert OutboxSettings().lease_secs * 1_000 > OutboxSettings().poll_interval_ms

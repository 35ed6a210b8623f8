"""What the sweeper finds and does, on real engines."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from sqlalchemy import func

from shared.clock import SystemClock
from shared.db.engine import Sessions
from shared.events import frames
from shared.events.ids import opening
from shared.events.log import EventLog
from shared.metrics import Metrics
from shared.queue.jobs import RunTurn
from shared.queue.queue import QUEUE_NAME, JobQueue
from shared.settings import Settings
from shared.turns.stop import TurnStopper
from shared.turns.tables import Turn
from shared.valkey.client import Valkey
from shared.valkey.keyspace import TurnKeys
from tests.support.finalizers import make_finalizer
from tests.support.turn_rows import get_turn, insert_turn
from worker.turns.outage import OutageGuard
from worker.turns.sweeper import Sweeper

LONG_AGO = timedelta(minutes=1)
EXPIRED = func.now() - timedelta(seconds=1)
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
LIVE = func.now() + timedelta(seconds=10)


@pytest.fixture
def sweeper(settings: Settings, sessions: Sessions, valkey: Valkey) -> Sweeper:
    log = EventLog(valkey, settings)
    finalizer = make_finalizer(sessions, settings)
    stopper = TurnStopper(
        sessions=sessions,
        finalizer=finalizer,
        valkey=valkey,
        log=log,
        clock=SystemClock(),
        metrics=Metrics("test"),
    )
    return Sweeper(
        settings=settings,
        sessions=sessions,
        finalizer=finalizer,
        queue=JobQueue(valkey, settings),
        log=log,
        stopper=stopper,
        outage=OutageGuard(lease=timedelta(seconds=10), interval=timedelta(seconds=2)),
    )


@pytest.fixture(autouse=True)
def _the_server_is_old(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test's PostgreSQL has just started, which holds sweeps back."""
    monkeypatch.setattr("worker.turns.outage.SERVER_AGE", "SELECT interval '1 day'")


async def waiting_jobs(valkey: Valkey) -> set[str]:
    return {job.decode() for job in await valkey.zrange(QUEUE_NAME, 0, -1)}


async def insert(sessions: Sessions, **columns: Any) -> Turn:
    return await insert_turn(sessions, age=LONG_AGO, **columns)


async def test_a_turn_whose_enqueue_was_lost_is_enqueued(sessions: Sessions, valkey: Valkey, sweeper: Sweeper) -> None:
    turn = await insert(sessions)
    await sweeper.sweep()
    assert await waiting_jobs(valkey) == {f"{turn.id}:1"}


async def test_a_turn_that_was_just_accepted_is_left_alone(
    sessions: Sessions, valkey: Valkey, sweeper: Sweeper
) -> None:
    await insert_turn(sessions)
    await sweeper.sweep()
    assert await waiting_jobs(valkey) == set()


async def test_a_held_turn_is_left_alone(sessions: Sessions, valkey: Valkey, sweeper: Sweeper) -> None:
    await insert(sessions, attempt=1, lease_expires_at=LIVE)
    await sweeper.sweep()
    assert await waiting_jobs(valkey) == set()


async def test_a_waiting_job_is_left_alone(sessions: Sessions, valkey: Valkey, sweeper: Sweeper) -> None:
    """A sweep must not disturb what waits its turn: the job keeps its place."""
    turn = await insert(sessions)
    await sweeper.sweep()
    before = await valkey.zscore(QUEUE_NAME, f"{turn.id}:1")
    await sweeper.sweep()
    assert await valkey.zscore(QUEUE_NAME, f"{turn.id}:1") == before
    assert await valkey.lrange("mc:queue:wake", 0, -1) == [b"1"]  # type: ignore[misc]


async def test_a_lost_worker_s_turn_is_tried_again(sessions: Sessions, valkey: Valkey, sweeper: Sweeper) -> None:
    turn = await insert(sessions, attempt=1, lease_owner="dead", lease_expires_at=EXPIRED)
    await sweeper.sweep()
    assert await waiting_jobs(valkey) == {f"{turn.id}:2"}


async def test_a_turn_that_is_tried_again_stays_one_trace(sessions: Sessions, valkey: Valkey, sweeper: Sweeper) -> None:
    """What the dead worker had taken out of the queue still says whose trace it is."""
    turn = await insert(sessions, attempt=1, lease_owner="dead", lease_expires_at=EXPIRED)
    await sweeper.queue.enqueue(RunTurn(turn.id, 1, traceparent=TRACEPARENT))
    await sweeper.queue.pick(at_most=1, in_progress_ms=60_000)
    await sweeper.sweep()
    (job,) = await sweeper.queue.pick(at_most=9, in_progress_ms=60_000)
    _, payload = job.read()
    assert (job.job_id, payload["traceparent"]) == (f"{turn.id}:2", TRACEPARENT)


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({}, "first"),
        ({"attempt": 1, "lease_expires_at": EXPIRED}, "worker_lost"),
        ({"attempt": 1}, "drain"),
    ],
    ids=["never claimed", "lease ran out", "handed back"],
)
async def test_a_job_says_why_there_is_this_attempt(
    sessions: Sessions, sweeper: Sweeper, columns: dict[str, Any], reason: str
) -> None:
    await insert(sessions, **columns)
    await sweeper.sweep()
    (job,) = await sweeper.queue.pick(at_most=2, in_progress_ms=1_000)
    _, payload = job.read()
    assert payload["reason"] == reason


async def test_what_a_dead_worker_left_under_the_id_is_replaced(
    sessions: Sessions, valkey: Valkey, sweeper: Sweeper
) -> None:
    """A worker that died between taking the job and claiming the turn leaves keys that would outlive it for an hour."""
    turn = await insert(sessions)
    job_id = f"{turn.id}:1"
    await valkey.set(f"arq:in-progress:{job_id}", "1", ex=3_600)
    await valkey.set(f"arq:retry:{job_id}", "3", ex=3_600)
    await valkey.zadd("mc:queue:running", {job_id: 4_102_444_800_000})
    await sweeper.sweep()
    assert await waiting_jobs(valkey) == {job_id}
    assert await valkey.exists(f"arq:in-progress:{job_id}", f"arq:retry:{job_id}", "mc:queue:running") == 0


async def test_a_turn_without_attempts_left_ends(
    settings: Settings, sessions: Sessions, valkey: Valkey, sweeper: Sweeper
) -> None:
    """It fails in its row, and its log ends for those who are attached."""
    turn = await insert(sessions, attempt=3, lost_attempts=2, lease_owner="dead", lease_expires_at=EXPIRED)
    keys, log = TurnKeys(turn.chat_id, turn.request_id), EventLog(valkey, settings)
    started = frames.stream_started(request_id=turn.request_id, message_id=turn.planned_message_id, is_new_turn=True)
    restart = frames.restart(attempt=3, reason="worker_lost")
    await log.open_attempt(keys, attempt=3, started=started, restart=restart, refuse_restart=False)
    await log.append(keys, frames.delta("x"), entry_id=opening(3).next, after=opening(3))

    await sweeper.sweep()

    stored = await get_turn(sessions, turn)
    assert (stored.state, stored.error_code) == ("failed", "orphan_timeout")
    newest = await log.newest(keys)
    assert newest is not None
    assert (newest.id, newest.event) == (b"4-1", b"error")
    assert await waiting_jobs(valkey) == set()


async def test_hand_backs_do_not_use_attempts_up(sessions: Sessions, valkey: Valkey, sweeper: Sweeper) -> None:
    turn = await insert(sessions, attempt=9, lost_attempts=0, lease_expires_at=None)
    await sweeper.sweep()
    assert await waiting_jobs(valkey) == {f"{turn.id}:10"}


async def test_after_an_outage_expired_leases_get_their_time(
    sessions: Sessions, valkey: Valkey, sweeper: Sweeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the database was away nobody could renew: workers have one lease to do so before they count as lost."""
    held = await insert(sessions, attempt=1, lease_expires_at=EXPIRED)
    unclaimed = await insert(sessions)
    monkeypatch.setattr("worker.turns.outage.SERVER_AGE", "SELECT interval '1 second'")
    await sweeper.sweep()
    assert await waiting_jobs(valkey) == {f"{unclaimed.id}:1"}
    monkeypatch.setattr("worker.turns.outage.SERVER_AGE", "SELECT interval '1 day'")
    await sweeper.sweep()
    assert await waiting_jobs(valkey) == {f"{unclaimed.id}:1", f"{held.id}:2"}


async def test_a_turn_that_cannot_be_swept_holds_no_other_up(
    sessions: Sessions, valkey: Valkey, sweeper: Sweeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest turn fails at every pass; the one behind it is swept all the same, and the failure is told."""
    bad, good = await insert(sessions), await insert_turn(sessions, age=LONG_AGO / 2)
    enqueue = sweeper.queue.enqueue

    async def fail_for_one(job: RunTurn) -> bool:
        if job.turn_id == bad.id:
            raise RedisConnectionError
        return await enqueue(job)

    monkeypatch.setattr(sweeper.queue, "enqueue", fail_for_one)
    with pytest.raises(RedisConnectionError):
        await sweeper.sweep()
    assert await waiting_jobs(valkey) == {f"{good.id}:1"}

"""Who may work at a turn: claims, leases, hand-backs and the one finalization, on a real PostgreSQL."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from sqlalchemy import func, select

from shared.db.engine import Sessions
from shared.messages.tables import Message
from shared.turns.finalize import TurnFinalizer
from shared.turns.lifecycle import Ending, TokenUsage, TurnState
from shared.turns.repository import TurnRepository, is_unheld
from shared.turns.tables import Turn
from tests.support.turn_rows import change_turn, get_turn, insert_turn
from worker.turns.held import HeldTurn, StopKind
from worker.turns.leases import LeaseKeeper

LEASE = timedelta(seconds=10)
ANSWER = Ending.completed(text="Hello", usage=TokenUsage(3, 2), response_id="resp_1")


async def claim(sessions: Sessions, turn: Turn, *, attempt: int, owner: str = "w") -> Turn | None:
    async with sessions.begin() as session:
        return await TurnRepository(session).claim(turn.id, attempt=attempt, owner=owner, lease=LEASE)


async def expire_lease(sessions: Sessions, turn: Turn) -> None:
    await change_turn(sessions, turn, lease_expires_at=func.now() - timedelta(seconds=1))


async def test_one_of_many_claims_succeeds(sessions: Sessions) -> None:
    turn = await insert_turn(sessions)
    claims = await asyncio.gather(*(claim(sessions, turn, attempt=1, owner=f"w{i}") for i in range(20)))
    [winner] = [found for found in claims if found is not None]
    stored = await get_turn(sessions, turn)
    assert (stored.attempt, stored.lost_attempts, stored.lease_owner) == (1, 0, winner.lease_owner)


async def test_a_live_lease_is_respected(sessions: Sessions) -> None:
    turn = await insert_turn(sessions)
    assert await claim(sessions, turn, attempt=1)
    assert await claim(sessions, turn, attempt=2) is None


async def test_an_expired_lease_is_a_lost_attempt(sessions: Sessions) -> None:
    turn = await insert_turn(sessions)
    await claim(sessions, turn, attempt=1)
    await expire_lease(sessions, turn)
    taken = await claim(sessions, turn, attempt=2)
    assert taken is not None
    assert (taken.attempt, taken.lost_attempts) == (2, 1)


async def test_a_hand_back_is_not(sessions: Sessions) -> None:
    turn = await insert_turn(sessions)
    await claim(sessions, turn, attempt=1)
    async with sessions.begin() as session:
        assert await TurnRepository(session).hand_back(turn.id, attempt=1)
    taken = await claim(sessions, turn, attempt=2)
    assert taken is not None
    assert (taken.attempt, taken.lost_attempts) == (2, 0)


async def test_an_ended_turn_cannot_be_claimed(sessions: Sessions, finalizer: TurnFinalizer) -> None:
    turn = await insert_turn(sessions)
    await finalizer.finalize(turn, ANSWER, attempt=0)
    assert await claim(sessions, turn, attempt=1) is None


async def test_one_of_many_finalizations_wins(sessions: Sessions, finalizer: TurnFinalizer) -> None:
    """The others get None, and the answer is stored once, after its question."""
    turn = await insert_turn(sessions)
    await claim(sessions, turn, attempt=1)
    endings = [ANSWER, Ending.failed("provider_error", provider_started=True), ANSWER]
    results = await asyncio.gather(*(finalizer.finalize(turn, ending, attempt=1) for ending in endings * 5))
    [winner] = [result for result in results if result is not None]
    stored = await get_turn(sessions, turn)
    assert stored.state == winner.ending.state
    assert (stored.lease_owner, stored.lease_expires_at) == (None, None)
    async with sessions() as session:
        messages = (
            await session.scalars(select(Message).where(Message.chat_id == turn.chat_id).order_by(Message.created_at))
        ).all()
    expected = ["user", "assistant"] if stored.state == TurnState.COMPLETED else ["user"]
    assert [message.role for message in messages] == expected
    assert stored.assistant_message_id == (messages[1].id if len(messages) > 1 else None)


async def test_a_superseded_attempt_cannot_finalize(sessions: Sessions, finalizer: TurnFinalizer) -> None:
    turn = await insert_turn(sessions)
    await claim(sessions, turn, attempt=1)
    await expire_lease(sessions, turn)
    await claim(sessions, turn, attempt=2)
    late = await finalizer.finalize(turn, ANSWER, attempt=1)
    assert late is None
    assert (await get_turn(sessions, turn)).state == TurnState.RUNNING


async def test_who_is_not_the_worker_loses_to_a_live_lease(sessions: Sessions, finalizer: TurnFinalizer) -> None:
    turn = await insert_turn(sessions)
    await claim(sessions, turn, attempt=1)

    async def end_from_outside() -> bool:
        ending = Ending.failed("orphan_timeout", provider_started=True)
        finalized = await finalizer.finalize(turn, ending, attempt=1, only_if=is_unheld())
        return finalized is not None

    assert not await end_from_outside()
    await expire_lease(sessions, turn)
    assert await end_from_outside()


@pytest.mark.parametrize("text", ["", " \n"])
async def test_an_answer_without_text_is_a_failure(sessions: Sessions, finalizer: TurnFinalizer, text: str) -> None:
    turn = await insert_turn(sessions)
    ending = Ending.completed(text=text, usage=TokenUsage(3, 0), response_id=None)
    finalized = await finalizer.finalize(turn, ending, attempt=0)
    assert finalized is not None
    stored = await get_turn(sessions, turn)
    assert (stored.state, stored.error_code) == ("failed", "provider_error")


async def test_an_answer_that_cannot_be_stored_fails_the_turn(sessions: Sessions, finalizer: TurnFinalizer) -> None:
    """The database refuses the text (U+0000): the turn still ends, and says why."""
    turn = await insert_turn(sessions)
    ending = Ending.completed(text="a\0b", usage=None, response_id=None)
    finalized = await finalizer.finalize(turn, ending, attempt=0)
    assert finalized is not None
    assert b'"code":"message_persistence_failed"' in finalized.terminal_frame().body
    assert (await get_turn(sessions, turn)).error_code == "message_persistence_failed"


async def test_a_partial_answer_of_a_stopped_turn_is_stored(sessions: Sessions, finalizer: TurnFinalizer) -> None:
    turn = await insert_turn(sessions)
    ending = Ending.cancelled("user_stop", text="Hel", provider_started=True)
    await finalizer.finalize(turn, ending, attempt=0)
    stored = await get_turn(sessions, turn)
    assert (stored.state, stored.assistant_message_id) == ("cancelled", turn.planned_message_id)


async def test_renewal_extends_leases_and_brings_stops(sessions: Sessions) -> None:
    keeper = LeaseKeeper(sessions, owner="w", lease=LEASE)
    turns = [await claim(sessions, await insert_turn(sessions), attempt=1) for _ in range(3)]
    held = [HeldTurn(turn) for turn in turns if turn is not None]
    await change_turn(sessions, held[1].turn, cancel_requested_at=func.now(), cancel_trigger="user_stop")
    await change_turn(sessions, held[2].turn, lease_expires_at=func.now())
    with keeper.holding(held[0]), keeper.holding(held[1]), keeper.holding(held[2]):
        await keeper.renew()
    assert held[0].requested_stop is None
    assert held[1].requested_stop is not None
    assert (held[1].requested_stop.kind, held[1].requested_stop.trigger) == (StopKind.CANCELLED, "internal")
    renewed = await get_turn(sessions, held[2].turn)
    before = held[0].turn.lease_expires_at
    assert renewed.lease_expires_at is not None
    assert before is not None
    assert renewed.lease_expires_at >= before


async def test_renewal_stops_what_is_no_longer_ours(sessions: Sessions, finalizer: TurnFinalizer) -> None:
    """A higher attempt, or an end, means gone; a row that is only locked does not."""
    keeper = LeaseKeeper(sessions, owner="w", lease=LEASE)
    turns = [await claim(sessions, await insert_turn(sessions), attempt=1) for _ in range(3)]
    superseded, ended, locked = (HeldTurn(turn) for turn in turns if turn is not None)
    await change_turn(sessions, superseded.turn, attempt=2)
    await finalizer.finalize(ended.turn, ANSWER, attempt=1)
    async with sessions.begin() as session:
        await session.execute(select(Turn).where(Turn.id == locked.turn.id).with_for_update())
        with keeper.holding(superseded), keeper.holding(ended), keeper.holding(locked):
            await keeper.renew()
    assert superseded.is_superseded
    assert ended.is_superseded
    assert not locked.is_superseded

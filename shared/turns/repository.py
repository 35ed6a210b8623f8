"""Every statement on `chat_turns`. State changes are compare-and-set: guarded in WHERE, told by RETURNING.

Time is the database's (`clock_timestamp()`), so that leases mean the same to every process.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Integer,
    Interval,
    Table,
    Uuid,
    and_,
    any_,
    bindparam,
    case,
    column,
    func,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.sql.dml import ReturningUpdate

from shared.chats.tables import Chat
from shared.messages.tables import Message
from shared.turns.lifecycle import TurnState
from shared.turns.tables import Turn

# The sweeper leaves a turn that nobody holds alone for this long: its API is still about to enqueue it.
UNCLAIMED_GRACE = timedelta(seconds=2)

_now = func.clock_timestamp

_asked = (
    func.unnest(bindparam("turn_ids", type_=ARRAY(Uuid))).table_valued(column("id", Uuid)).render_derived(name="asked")
)
_ENDED = (
    select(_asked.c.id)
    .select_from(_asked.outerjoin(Turn, Turn.id == _asked.c.id))
    .where(or_(Turn.id.is_(None), Turn.state != TurnState.RUNNING))
)


@dataclass(frozen=True, slots=True)
class Renewed:
    """A turn whose lease was renewed; `attempt` is its current one."""

    turn_id: UUID
    attempt: int
    cancel_trigger: str | None


@dataclass(frozen=True, slots=True)
class TurnStatus:
    turn_id: UUID
    state: TurnState
    attempt: int


# Statements are built once: putting one together costs as much CPU as running it. The updates are Core
# statements whose rows are read as turns: an update of the ORM's own looks for objects to refresh, at twice the price
# (`populate_existing`: a turn that the session has read before shows what the update has made of it).
_TURNS = cast("Table", Turn.__table__)
_FIND_IN_CHAT = (
    select(Chat, Turn)
    .outerjoin(Turn, and_(Turn.chat_id == Chat.id, Turn.request_id == bindparam("request")))
    .where(
        Chat.id == bindparam("chat"),
        Chat.tenant_id == bindparam("tenant"),
        Chat.user_id == bindparam("owner"),
        Chat.deleted_at.is_(None),
    )
)
_FIND = select(Turn).where(Turn.id == bindparam("turn"))
_FIND_RUNNING = select(Turn).where(
    Turn.chat_id == bindparam("chat"), Turn.state == TurnState.RUNNING, Turn.deleted_at.is_(None)
)
_FIND_NEWEST = (
    select(Turn)
    .where(Turn.chat_id == bindparam("chat"), Turn.deleted_at.is_(None))
    .order_by(Turn.started_at.desc(), Turn.id.desc())
    .limit(1)
)
_LEASE_END = _now() + bindparam("lease", type_=Interval)
_IS_MINE = and_(
    Turn.id == bindparam("turn"), Turn.state == TurnState.RUNNING, Turn.attempt == bindparam("held_attempt")
)
_CLAIM = (
    select(Turn)
    .from_statement(
        update(_TURNS)
        .where(_IS_MINE, or_(Turn.lease_expires_at.is_(None), Turn.lease_expires_at < _now()))
        .values(
            lease_owner=bindparam("owner"),
            lease_expires_at=_LEASE_END,
            attempt=Turn.attempt + 1,
            lost_attempts=Turn.lost_attempts + case((Turn.lease_expires_at.is_not(None), 1), else_=0),
            web_search_completed_count=0,
            code_interpreter_completed_count=0,
            last_progress_at=_now(),
        )
        .returning(_TURNS)
    )
    .execution_options(populate_existing=True)
)
_REQUEST_STOP = (
    select(Turn)
    .from_statement(
        update(_TURNS)
        .where(Turn.id == bindparam("turn"), Turn.state == TurnState.RUNNING)
        .values(
            cancel_requested_at=func.coalesce(Turn.cancel_requested_at, _now()),
            cancel_trigger=func.coalesce(Turn.cancel_trigger, bindparam("trigger")),
        )
        .returning(_TURNS)
    )
    .execution_options(populate_existing=True)
)
_NEXT_ATTEMPT = update(_TURNS).where(_IS_MINE).values(attempt=Turn.attempt + 1).returning(_TURNS.c.id)
_HAND_BACK = update(_TURNS).where(_IS_MINE).values(lease_owner=None, lease_expires_at=None).returning(_TURNS.c.id)
_TAKE_AWAY = (
    update(_TURNS)
    .where(_IS_MINE)
    .values(attempt=Turn.attempt + 1, lease_owner=None, lease_expires_at=None)
    .returning(_TURNS.c.id)
)
_IS_ONE_OF = Turn.id == any_(bindparam("turns", type_=ARRAY(Uuid)))
_LIST_STATES = select(Turn.id, Turn.state, Turn.attempt).where(_IS_ONE_OF)
_asked_in_chats = (
    func.unnest(bindparam("chats", type_=ARRAY(Uuid)), bindparam("requests", type_=ARRAY(Uuid)))
    .table_valued(column("chat_id", Uuid), column("request_id", Uuid))
    .render_derived(name="asked")
)
_LIST_RUNNING = (
    select(Turn.chat_id, Turn.request_id)
    .join(
        _asked_in_chats,
        and_(Turn.chat_id == _asked_in_chats.c.chat_id, Turn.request_id == _asked_in_chats.c.request_id),
    )
    .where(Turn.state == TurnState.RUNNING)
)
# `now()` is stable, unlike `clock_timestamp()`: the partial indexes serve the comparison.
_LIST_UNHELD = (
    select(Turn)
    .where(
        Turn.state == TurnState.RUNNING,
        Turn.deleted_at.is_(None),
        or_(
            Turn.lease_expires_at < func.now(),
            and_(Turn.lease_expires_at.is_(None), Turn.last_progress_at < func.now() - UNCLAIMED_GRACE),
        ),
    )
    .order_by(Turn.started_at)
    .limit(bindparam("limit"))
)


def _renew() -> ReturningUpdate[Any]:
    # Arrays, so that the statement is the same text however many turns are held.
    mine = select(
        func.unnest(bindparam("turns", type_=ARRAY(Uuid))), func.unnest(bindparam("attempts", type_=ARRAY(Integer)))
    )
    unlocked = (
        select(_TURNS.c.id)
        .where(tuple_(Turn.id, Turn.attempt).in_(mine), Turn.state == TurnState.RUNNING)
        .with_for_update(skip_locked=True)
    )
    is_progressing = Turn.id == any_(bindparam("progressing", type_=ARRAY(Uuid)))
    return (
        update(_TURNS)
        .where(Turn.id.in_(unlocked.scalar_subquery()))
        .values(
            lease_expires_at=_LEASE_END,
            last_progress_at=case((is_progressing, _now()), else_=Turn.last_progress_at),
        )
        .returning(_TURNS.c.id, _TURNS.c.attempt, _TURNS.c.cancel_trigger)
    )


_RENEW = _renew()


class TurnRepository:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def find_in_chat(
        self, *, chat_id: UUID, tenant_id: UUID, user_id: UUID, request_id: UUID
    ) -> tuple[Chat, Turn | None] | None:
        """The user's chat with its turn of that request id; None if the chat is absent or not the user's."""
        values = {"chat": chat_id, "tenant": tenant_id, "owner": user_id, "request": request_id}
        row = (await self._session.execute(_FIND_IN_CHAT, values)).one_or_none()
        return None if row is None else (row[0], row[1])

    async def claim(self, turn_id: UUID, *, attempt: int, owner: str, lease: timedelta) -> Turn | None:
        """Compare-and-set: become the holder of attempt `attempt`; None if somebody else is, or the turn has ended."""
        values = {"turn": turn_id, "held_attempt": attempt - 1, "owner": owner, "lease": lease}
        return (await self._session.execute(_CLAIM, values)).scalar_one_or_none()

    async def request_stop(self, turn_id: UUID, *, trigger: str) -> Turn | None:
        """Note that the turn is to stop; a later request changes nothing. None if it has ended."""
        return (await self._session.execute(_REQUEST_STOP, {"turn": turn_id, "trigger": trigger})).scalar_one_or_none()

    async def find(self, turn_id: UUID) -> Turn | None:
        return (await self._session.execute(_FIND, {"turn": turn_id})).scalar_one_or_none()

    async def find_running(self, chat_id: UUID) -> Turn | None:
        return (await self._session.execute(_FIND_RUNNING, {"chat": chat_id})).scalar_one_or_none()

    async def find_newest(self, chat_id: UUID) -> Turn | None:
        """The live turn of the chat that was started last."""
        return (await self._session.execute(_FIND_NEWEST, {"chat": chat_id})).scalar_one_or_none()

    async def list_ended_request_ids(self, chat_id: UUID) -> Sequence[UUID]:
        """Of all turns of the chat that are not running, deleted ones included."""
        statement = select(Turn.request_id).where(Turn.chat_id == chat_id, Turn.state != TurnState.RUNNING)
        return (await self._session.scalars(statement)).all()

    async def soft_delete(self, turn: Turn, *, replaced_by: UUID | None = None) -> None:
        """Take an ended turn and its messages out of the chat; the row stays readable as a status."""
        await self._session.execute(
            update(Turn)
            .where(Turn.id == turn.id)
            .values(deleted_at=_now(), updated_at=_now(), replaced_by_request_id=replaced_by)
        )
        await self._session.execute(
            update(Message)
            .where(
                Message.chat_id == turn.chat_id,
                Message.request_id == turn.request_id,
                Message.deleted_at.is_(None),
            )
            .values(deleted_at=_now())
        )

    async def next_attempt(self, turn_id: UUID, *, attempt: int) -> bool:
        """Compare-and-set: the holder of `attempt` takes the next number; it is not a lost attempt."""
        taken = await self._session.execute(_NEXT_ATTEMPT, {"turn": turn_id, "held_attempt": attempt})
        return taken.scalar_one_or_none() is not None

    async def hand_back(self, turn_id: UUID, *, attempt: int) -> bool:
        """Compare-and-set: the holder of `attempt` gives the turn up for another worker; not a lost attempt."""
        given_up = await self._session.execute(_HAND_BACK, {"turn": turn_id, "held_attempt": attempt})
        return given_up.scalar_one_or_none() is not None

    async def take_away(self, turn_id: UUID, *, attempt: int) -> bool:
        """Compare-and-set: fence off the holder of `attempt`, and release the turn for another worker."""
        taken = await self._session.execute(_TAKE_AWAY, {"turn": turn_id, "held_attempt": attempt})
        return taken.scalar_one_or_none() is not None

    async def is_held(self, turn_id: UUID) -> bool:
        """Whether a worker has a live lease on it."""
        return await self._session.scalar(select(Turn.id).where(Turn.id == turn_id, ~is_unheld())) is not None

    async def renew(
        self, held: Iterable[tuple[UUID, int]], *, progressing: Iterable[UUID], lease: timedelta
    ) -> list[Renewed]:
        """Renew the leases of all pairs of turn and attempt in one statement; rows locked by others are skipped."""
        pairs = list(held)
        if not pairs:
            return []
        values = {
            "turns": [turn_id for turn_id, _ in pairs],
            "attempts": [attempt for _, attempt in pairs],
            "progressing": list(progressing),
            "lease": lease,
        }
        return [Renewed(*row) for row in (await self._session.execute(_RENEW, values)).all()]

    async def list_states(self, turn_ids: Sequence[UUID]) -> list[TurnStatus]:
        """State and attempt of each turn that exists, without locks."""
        rows = (await self._session.execute(_LIST_STATES, {"turns": list(turn_ids)})).all()
        return [TurnStatus(row[0], TurnState(row[1]), row[2]) for row in rows]

    async def list_ended(self, turn_ids: Sequence[UUID]) -> list[UUID]:
        """Which of the turns are not running, those that are gone included; of thousands it is a few, as a rule."""
        return list((await self._session.execute(_ENDED, {"turn_ids": turn_ids})).scalars())

    async def list_running(self, turns: Sequence[tuple[UUID, UUID]]) -> set[tuple[UUID, UUID]]:
        """Which of the turns, by chat and request id, are running."""
        values = {"chats": [chat_id for chat_id, _ in turns], "requests": [request_id for _, request_id in turns]}
        return {(row[0], row[1]) for row in (await self._session.execute(_LIST_RUNNING, values)).all()}

    async def list_unheld(self, *, limit: int) -> list[Turn]:
        """Running turns that no worker holds: the lease ran out, or nobody has claimed them in time. Oldest first."""
        return list((await self._session.execute(_LIST_UNHELD, {"limit": limit})).scalars())

    async def list_stuck(self, *, no_progress_for: timedelta, older_than: timedelta, limit: int) -> list[Turn]:
        """Running turns whose holder does not move, or that are older than any turn may be. Oldest first."""
        statement = (
            select(Turn)
            .where(
                Turn.state == TurnState.RUNNING,
                Turn.deleted_at.is_(None),
                is_stuck(no_progress_for=no_progress_for, older_than=older_than),
            )
            .order_by(Turn.started_at)
            .limit(limit)
        )
        return list((await self._session.execute(statement)).scalars())

    async def count_waiting_and_running(self) -> tuple[int, int]:
        """Running turns without, and with, a live lease."""
        held = and_(Turn.lease_expires_at.is_not(None), Turn.lease_expires_at >= func.now())
        statement = select(
            func.count().filter(or_(Turn.lease_expires_at.is_(None), Turn.lease_expires_at < func.now())),
            func.count().filter(held),
        ).where(Turn.state == TurnState.RUNNING, Turn.deleted_at.is_(None))
        row = (await self._session.execute(statement)).one()
        return row[0], row[1]


def is_unheld() -> ColumnElement[bool]:
    """No worker holds the turn: never claimed, handed back, or its lease has run out."""
    return or_(Turn.lease_expires_at.is_(None), Turn.lease_expires_at < _now())


def is_stuck(*, no_progress_for: timedelta, older_than: timedelta) -> ColumnElement[bool]:
    """The holder renews its lease and does not move, or the turn is older than any may be."""
    return or_(
        and_(Turn.lease_expires_at >= func.now(), Turn.last_progress_at <= func.now() - _interval(no_progress_for)),
        Turn.started_at <= func.now() - _interval(older_than),
    )


def _interval(duration: timedelta) -> Any:
    return bindparam(None, duration, type_=Interval)

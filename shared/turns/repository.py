"""Every statement on `chat_turns`. State changes are compare-and-set: guarded in WHERE, told by RETURNING.

Time is the database's (`clock_timestamp()`), so that leases mean the same to every process.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Integer,
    Interval,
    Select,
    Uuid,
    and_,
    any_,
    bindparam,
    case,
    column,
    func,
    literal,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

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
class SendView:
    """All that a send has to know about its chat, in one query."""

    chat: Chat
    turn: Turn | None
    """The turn that already has the request id, deleted or not."""
    running_turn_id: UUID | None


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


def _find_for_send() -> Select[Chat, Turn, UUID]:
    same, running = aliased(Turn), aliased(Turn)
    is_running = and_(
        running.chat_id == Chat.id, running.state == TurnState.RUNNING.value, running.deleted_at.is_(None)
    )
    return (
        select(Chat, same, running.id)
        .outerjoin(same, and_(same.chat_id == Chat.id, same.request_id == bindparam("request")))
        .outerjoin(running, is_running)
        .where(
            Chat.id == bindparam("chat"),
            Chat.tenant_id == bindparam("tenant"),
            Chat.user_id == bindparam("owner"),
            Chat.deleted_at.is_(None),
        )
    )


# Aliases are dear to make (7 ms of CPU for this one): once, not for every send.
_FIND_FOR_SEND = _find_for_send()


class TurnRepository:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def find_for_send(
        self, *, chat_id: UUID, tenant_id: UUID, user_id: UUID, request_id: UUID
    ) -> SendView | None:
        """None if the chat is absent, deleted or not the user's."""
        values = {"chat": chat_id, "tenant": tenant_id, "owner": user_id, "request": request_id}
        row = (await self._session.execute(_FIND_FOR_SEND, values)).one_or_none()
        return None if row is None else SendView(row[0], row[1], row[2])

    async def find_in_chat(
        self, *, chat_id: UUID, tenant_id: UUID, user_id: UUID, request_id: UUID
    ) -> tuple[Chat, Turn | None] | None:
        """The user's chat with its turn of that request id; None if the chat is absent or not the user's."""
        statement = (
            select(Chat, Turn)
            .outerjoin(Turn, and_(Turn.chat_id == Chat.id, Turn.request_id == request_id))
            .where(
                Chat.id == chat_id,
                Chat.tenant_id == tenant_id,
                Chat.user_id == user_id,
                Chat.deleted_at.is_(None),
            )
        )
        row = (await self._session.execute(statement)).one_or_none()
        return None if row is None else (row[0], row[1])

    async def claim(self, turn_id: UUID, *, attempt: int, owner: str, lease: timedelta) -> Turn | None:
        """Compare-and-set: become the holder of attempt `attempt`; None if somebody else is, or the turn has ended."""
        now = _now()
        statement = (
            update(Turn)
            .where(
                Turn.id == turn_id,
                Turn.state == TurnState.RUNNING,
                Turn.attempt == attempt - 1,
                or_(Turn.lease_expires_at.is_(None), Turn.lease_expires_at < now),
            )
            .values(
                lease_owner=owner,
                lease_expires_at=now + _interval(lease),
                attempt=Turn.attempt + 1,
                lost_attempts=Turn.lost_attempts + case((Turn.lease_expires_at.is_not(None), 1), else_=0),
                web_search_completed_count=0,
                code_interpreter_completed_count=0,
                last_progress_at=now,
            )
            .returning(Turn)
        )
        return (await self._session.execute(statement)).scalar_one_or_none()

    async def request_stop(self, turn_id: UUID, *, trigger: str) -> Turn | None:
        """Note that the turn is to stop; a later request changes nothing. None if it has ended."""
        statement = (
            update(Turn)
            .where(Turn.id == turn_id, Turn.state == TurnState.RUNNING)
            .values(
                cancel_requested_at=func.coalesce(Turn.cancel_requested_at, _now()),
                cancel_trigger=func.coalesce(Turn.cancel_trigger, trigger),
            )
            .returning(Turn)
        )
        return (await self._session.execute(statement)).scalar_one_or_none()

    async def find(self, turn_id: UUID) -> Turn | None:
        return (await self._session.execute(select(Turn).where(Turn.id == turn_id))).scalar_one_or_none()

    async def find_running(self, chat_id: UUID) -> Turn | None:
        statement = select(Turn).where(
            Turn.chat_id == chat_id, Turn.state == TurnState.RUNNING, Turn.deleted_at.is_(None)
        )
        return (await self._session.execute(statement)).scalar_one_or_none()

    async def find_newest(self, chat_id: UUID) -> Turn | None:
        """The live turn of the chat that was started last."""
        statement = (
            select(Turn)
            .where(Turn.chat_id == chat_id, Turn.deleted_at.is_(None))
            .order_by(Turn.started_at.desc(), Turn.id.desc())
            .limit(1)
        )
        return (await self._session.execute(statement)).scalar_one_or_none()

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
        statement = (
            update(Turn)
            .where(Turn.id == turn_id, Turn.state == TurnState.RUNNING, Turn.attempt == attempt)
            .values(attempt=Turn.attempt + 1)
            .returning(Turn.id)
        )
        return (await self._session.execute(statement)).scalar_one_or_none() is not None

    async def hand_back(self, turn_id: UUID, *, attempt: int) -> bool:
        """Compare-and-set: the holder of `attempt` gives the turn up for another worker; not a lost attempt."""
        statement = (
            update(Turn)
            .where(Turn.id == turn_id, Turn.state == TurnState.RUNNING, Turn.attempt == attempt)
            .values(lease_owner=None, lease_expires_at=None)
            .returning(Turn.id)
        )
        return (await self._session.execute(statement)).scalar_one_or_none() is not None

    async def renew(
        self, held: Iterable[tuple[UUID, int]], *, progressing: Iterable[UUID], lease: timedelta
    ) -> list[Renewed]:
        """Renew the leases of all pairs of turn and attempt in one statement; rows locked by others are skipped."""
        pairs = list(held)
        if not pairs:
            return []
        # Arrays, so that the statement is the same text however many turns are held.
        mine = select(
            func.unnest(literal([turn_id for turn_id, _ in pairs], ARRAY(Uuid))),
            func.unnest(literal([attempt for _, attempt in pairs], ARRAY(Integer))),
        )
        unlocked = (
            select(Turn.id)
            .where(tuple_(Turn.id, Turn.attempt).in_(mine), Turn.state == TurnState.RUNNING)
            .with_for_update(skip_locked=True)
        )
        now = _now()
        statement = (
            update(Turn)
            .where(Turn.id.in_(unlocked.scalar_subquery()))
            .values(
                lease_expires_at=now + _interval(lease),
                last_progress_at=case((_is_one_of(progressing), now), else_=Turn.last_progress_at),
            )
            .returning(Turn.id, Turn.attempt, Turn.cancel_trigger)
            .execution_options(synchronize_session=False)
        )
        return [Renewed(*row) for row in (await self._session.execute(statement)).all()]

    async def list_states(self, turn_ids: Sequence[UUID]) -> list[TurnStatus]:
        """State and attempt of each turn that exists, without locks."""
        statement = select(Turn.id, Turn.state, Turn.attempt).where(_is_one_of(turn_ids))
        rows = (await self._session.execute(statement)).all()
        return [TurnStatus(row[0], TurnState(row[1]), row[2]) for row in rows]

    async def list_ended(self, turn_ids: Sequence[UUID]) -> list[UUID]:
        """Which of the turns are not running, those that are gone included; of thousands it is a few, as a rule."""
        return list((await self._session.execute(_ENDED, {"turn_ids": turn_ids})).scalars())

    async def list_unheld(self, *, limit: int) -> list[Turn]:
        """Running turns that no worker holds: the lease ran out, or nobody has claimed them in time. Oldest first."""
        now = func.now()  # stable, unlike clock_timestamp(): the partial indexes serve the comparison
        statement = (
            select(Turn)
            .where(
                Turn.state == TurnState.RUNNING,
                Turn.deleted_at.is_(None),
                or_(
                    Turn.lease_expires_at < now,
                    and_(Turn.lease_expires_at.is_(None), Turn.last_progress_at < now - UNCLAIMED_GRACE),
                ),
            )
            .order_by(Turn.started_at)
            .limit(limit)
        )
        return list((await self._session.execute(statement)).scalars())

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

    async def finalize(
        self, turn_id: UUID, *, attempt: int, only_if: ColumnElement[bool] | None, values: dict[str, Any]
    ) -> Turn | None:
        """Compare-and-set: the one transition out of `running`; None if somebody else has made it.

        Args:
            attempt: the attempt that the caller holds, or has seen in the row.
            only_if: what a caller that is not the worker has seen and must still hold, such as `is_unheld`.
        """
        predicates = [Turn.id == turn_id, Turn.state == TurnState.RUNNING, Turn.attempt == attempt]
        if only_if is not None:
            predicates.append(only_if)
        statement = (
            update(Turn)
            .where(*predicates)
            .values(completed_at=_now(), updated_at=_now(), lease_owner=None, lease_expires_at=None, **values)
            .returning(Turn)
        )
        return (await self._session.execute(statement)).scalar_one_or_none()

    async def set_assistant_message(self, turn_id: UUID, message_id: UUID) -> None:
        await self._session.execute(update(Turn).where(Turn.id == turn_id).values(assistant_message_id=message_id))

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


def _is_one_of(turn_ids: Iterable[UUID]) -> ColumnElement[bool]:
    return Turn.id == any_(literal(list(turn_ids), ARRAY(Uuid)))


def _interval(duration: timedelta) -> Any:
    return bindparam(None, duration, type_=Interval)

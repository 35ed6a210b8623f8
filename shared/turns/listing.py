"""Turns as an operator looks for them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy import ColumnElement, Select, String, case, cast, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from shared.clock import rfc3339
from shared.settings import Settings
from shared.turns.repository import is_stuck, is_unheld
from shared.turns.tables import Turn

_RUNNING: Final = Turn.state == "running"


@dataclass(frozen=True, slots=True)
class SeenTurn:
    """A turn at one moment of the database's clock."""

    turn: Turn
    phase: str
    """`queued`, `running` or `stuck`; of a turn that has ended, its state."""
    now: datetime

    @property
    def age(self) -> timedelta:
        return self.now - self.turn.started_at

    @property
    def silence(self) -> timedelta | None:
        """Since it last moved; None once it has ended."""
        moved_at = self.turn.last_progress_at
        return None if moved_at is None or self.turn.completed_at is not None else self.now - moved_at

    @property
    def document(self) -> dict[str, Any]:
        """Every column that holds no content, by its name."""
        values = {column.key: getattr(self.turn, column.key) for column in Turn.__table__.columns}
        return {"phase": self.phase} | {name: _plain(value) for name, value in values.items()}


async def list_turns(
    session: AsyncSession,
    settings: Settings,
    *,
    state: str,
    limit: int,
    tenant_id: UUID | None = None,
    chat_id: UUID | None = None,
) -> list[SeenTurn]:
    """At most `limit` turns: running ones oldest first, others newest first.

    Args:
        state: one of `shared.turns.command_line.STATES`.
    """
    is_running = state in ("running", "queued", "stuck")
    query = _seen(settings)
    if is_running:
        query = query.where(_RUNNING, Turn.deleted_at.is_(None)).order_by(Turn.started_at, Turn.id)
    else:
        query = query.order_by(Turn.started_at.desc(), Turn.id.desc())
        if state != "all":
            query = query.where(Turn.state == state)
    if state == "queued":
        query = query.where(is_unheld())
    elif state == "stuck":
        query = query.where(_is_stuck(settings))
    if tenant_id is not None:
        query = query.where(Turn.tenant_id == tenant_id)
    if chat_id is not None:
        query = query.where(Turn.chat_id == chat_id)
    return [SeenTurn(*row) for row in await session.execute(query.limit(limit))]


async def find_turn(session: AsyncSession, settings: Settings, *ids: UUID) -> SeenTurn | None:
    """By its id, or by those of its chat and request."""
    match ids:
        case (turn_id,):
            query = _seen(settings).where(Turn.id == turn_id)
        case (chat_id, request_id):
            query = _seen(settings).where(Turn.chat_id == chat_id, Turn.request_id == request_id)
        case _:
            raise ValueError("a turn is named by one id or two")
    row = (await session.execute(query)).one_or_none()
    return None if row is None else SeenTurn(*row)


def _seen(settings: Settings) -> Select[Turn, str, datetime]:
    phase = case(
        (~_RUNNING, Turn.state),
        (_is_stuck(settings), "stuck"),
        (is_unheld(), "queued"),
        else_="running",
    )
    return select(Turn, cast(phase, String), func.clock_timestamp())


def _is_stuck(settings: Settings) -> ColumnElement[bool]:
    """What the watchdog would fail."""
    return is_stuck(
        no_progress_for=timedelta(seconds=settings.orphan_watchdog.timeout_secs),
        older_than=timedelta(seconds=settings.turns.max_age_secs),
    )


def _plain(value: Any) -> Any:
    return rfc3339(value) if isinstance(value, datetime) else value

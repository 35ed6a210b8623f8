"""The work of a deployment: who does it, what waits, and what has failed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

from sqlalchemy import ColumnElement, Float, cast, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from shared.doctor.findings import Finding, fail, ok, warn
from shared.outbox.dead_letters import DeadLetters
from shared.outbox.tables import OutboxMessage
from shared.settings import Settings
from shared.turns.listing import list_turns
from shared.turns.repository import TurnRepository, is_unheld
from shared.turns.tables import Turn
from shared.valkey.client import Valkey
from shared.valkey.keyspace import CANCEL_CHANNEL

LONG_WAIT_SECS: Final = 30
LATE_DELIVERY_SECS: Final = 300
MOST_COUNTED: Final = 100


def _seconds(duration: ColumnElement[Any]) -> ColumnElement[float]:
    """The longest, 0 if there is none."""
    return cast(func.coalesce(func.extract("epoch", func.max(duration)), 0), Float)


_LONGEST_WAIT: Final = select(_seconds(func.now() - Turn.last_progress_at)).where(
    Turn.state == "running", Turn.deleted_at.is_(None), is_unheld()
)
_OUTBOX: Final = select(func.count(), _seconds(func.now() - OutboxMessage.available_at)).where(
    OutboxMessage.delivered_at.is_(None)
)


async def check_workers(valkey: Valkey) -> Finding:
    """Every worker listens for requests to stop turns for as long as it lives, and nobody else does.

    A server knows only one set of channels: workers on another of its databases are counted as well.
    """
    [(_, listening)] = await valkey.pubsub_numsub(CANCEL_CHANNEL)
    if not listening:
        return fail("workers", "none runs: nobody answers", "start `mini-chat worker`")
    return ok("workers", f"{listening} listen for work")


async def check_work(session: AsyncSession, settings: Settings) -> AsyncIterator[Finding]:
    """Turns that wait or are stuck, and what the outbox could not deliver."""
    queued, running = await TurnRepository(session).count_waiting_and_running()
    waited = await session.scalar(_LONGEST_WAIT) or 0.0
    seen = f"{running} running, {queued} waiting"
    if waited > LONG_WAIT_SECS:
        seen += f", the oldest for {waited:.0f} s"
        yield warn("queue", seen, "start more workers; see `mini-chat turns list --state queued`")
    else:
        yield ok("queue", seen)
    stuck = await list_turns(session, settings, state="stuck", limit=MOST_COUNTED)
    if stuck:
        change = "see `mini-chat turns list --state stuck`, then `turns hand-back` or `turns cancel`"
        yield fail("stuck turns", f"{len(stuck)} do not move", change)
    else:
        yield ok("stuck turns", "none")
    pending, oldest = (await session.execute(_OUTBOX)).one()
    if oldest > LATE_DELIVERY_SECS:
        seen = f"{pending} messages wait, the oldest for {oldest:.0f} s"
        yield warn("outbox", seen, "look into the workers' logs: who receives usage and audit events may be away")
    else:
        yield ok("outbox", f"{pending} messages wait")
    yield await _check_dead_letters(session)


async def _check_dead_letters(session: AsyncSession) -> Finding:
    letters = await DeadLetters(session).list_open()
    if not letters:
        return ok("dead letters", "none")
    queues = sorted({letter.queue for letter in letters})
    change = "see `mini-chat outbox list`, mend the cause, then `mini-chat outbox replay`"
    return fail("dead letters", f"{len(letters)} in {', '.join(queues)}", change)

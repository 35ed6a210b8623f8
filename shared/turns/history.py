"""What is known of one turn, from everywhere it has left something: its row, its event log, and the outbox."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import and_, literal, null, or_, select, union_all
from sqlalchemy.ext.asyncio import AsyncSession

from shared.clock import rfc3339
from shared.events.log import PAGE, Entry, EventLog
from shared.outbox.messages import AUDIT, USAGE_SNAPSHOT
from shared.outbox.tables import OutboxDeadLetter, OutboxMessage
from shared.turns.tables import Turn
from shared.valkey.client import REDIS_FAILURE
from shared.valkey.keyspace import TurnKeys

_SETTLEMENT: Final = (
    *("billing_outcome", "outcome", "settlement_method", "usage"),
    *("reserve_tokens", "reserved_credits_micro", "committed_credits_micro", "overshoot_capped"),
    *("web_search_calls", "code_interpreter_calls", "policy_version_applied"),
)


@dataclass(slots=True)
class EventRun:
    """Entries of one kind in a row; an answer has thousands of deltas."""

    event: str
    first_id: str
    last_id: str
    count: int
    bytes: int
    frames: list[str]
    """What was said; empty unless asked for."""

    @property
    def document(self) -> dict[str, Any]:
        members = {
            "event": self.event,
            "first_id": self.first_id,
            "last_id": self.last_id,
            "count": self.count,
            "bytes": self.bytes,
        }
        return members | ({"frames": self.frames} if self.frames else {})


@dataclass(frozen=True, slots=True)
class ToldMessage:
    """A message of the outbox that tells of the turn, wherever it is on its way."""

    id: int
    queue: str
    payload_type: str
    state: str
    """`pending`, `delivered`, `dead` or `resolved`."""
    attempts: int
    error: str | None
    created_at: str
    settled_at: str | None
    """When it was delivered, or became a dead letter."""
    payload: dict[str, Any]

    def document(self, *, with_content: bool) -> dict[str, Any]:
        """As JSON; an audit event may hold what was said."""
        names = ("id", "queue", "payload_type", "state", "attempts", "error", "created_at", "settled_at")
        members = {name: getattr(self, name) for name in names}
        return members | ({"payload": self.payload} if with_content or self.queue == USAGE_SNAPSHOT else {})


def settlement_of(messages: Sequence[ToldMessage]) -> dict[str, Any] | None:
    """What the usage event says the turn has cost; None if there is none, or it is no longer kept."""
    usage = next((message.payload for message in messages if message.queue == USAGE_SNAPSHOT), None)
    return None if usage is None else {name: usage.get(name) for name in _SETTLEMENT}


async def read_events(log: EventLog, turn: Turn, *, with_content: bool) -> list[EventRun] | None:
    """What the log holds, gathered into runs; empty if it has expired, None if Valkey cannot be asked."""
    keys = TurnKeys(turn.chat_id, turn.request_id)
    runs: list[EventRun] = []
    start = b"-"
    try:
        while page := await log.read(keys, start=start, count=PAGE):
            for entry in page:
                _add(runs, entry, with_content=with_content)
            start = b"(" + page[-1].id
    except REDIS_FAILURE:
        return None
    return runs


async def find_messages(session: AsyncSession, turn: Turn) -> list[ToldMessage]:
    """The turn's usage and audit events, oldest first, dead letters among them."""
    parts = []
    for table, settled_at, error, is_letter in (
        (OutboxMessage, OutboxMessage.delivered_at, OutboxMessage.last_error, False),
        (OutboxDeadLetter, OutboxDeadLetter.failed_at, OutboxDeadLetter.reason, True),
    ):
        resolved_at = OutboxDeadLetter.resolved_at if is_letter else null()
        parts.append(
            select(
                *(table.id, table.queue, table.payload_type, table.attempts, error.label("error")),
                *(table.created_at, settled_at.label("settled_at"), resolved_at.label("resolved_at")),
                *(literal(is_letter).label("is_letter"), table.payload),
            ).where(_tells_of(table, turn))
        )
    told = union_all(*parts).subquery()
    rows = await session.execute(select(told).order_by(told.c.created_at, told.c.id))
    return [
        ToldMessage(
            id=row.id,
            queue=row.queue,
            payload_type=row.payload_type,
            state=_state(row),
            attempts=row.attempts,
            error=row.error,
            created_at=rfc3339(row.created_at),
            settled_at=None if row.settled_at is None else rfc3339(row.settled_at),
            payload=row.payload,
        )
        for row in rows
    ]


def _tells_of(table: type[OutboxMessage] | type[OutboxDeadLetter], turn: Turn) -> Any:
    usage_key = "/".join(part.hex for part in (turn.tenant_id, turn.id, turn.request_id))
    is_audit = and_(
        table.queue == AUDIT,
        table.partition_key == str(turn.tenant_id),
        or_(
            table.payload["turn_id"].astext == str(turn.id),
            # A retry or an edit of another turn of the chat that this one came from.
            and_(
                table.payload["chat_id"].astext == str(turn.chat_id),
                table.payload["new_request_id"].astext == str(turn.request_id),
            ),
        ),
    )
    return or_(and_(table.queue == USAGE_SNAPSHOT, table.dedupe_key == usage_key), is_audit)


def _state(row: Any) -> str:
    if row.is_letter:
        return "dead" if row.resolved_at is None else "resolved"
    return "pending" if row.settled_at is None else "delivered"


def _add(runs: list[EventRun], entry: Entry, *, with_content: bool) -> None:
    event, entry_id = entry.event.decode(), entry.id.decode()
    if not runs or runs[-1].event != event or runs[-1].last_id.partition("-")[0] != entry_id.partition("-")[0]:
        runs.append(EventRun(event, entry_id, entry_id, 0, 0, []))
    run = runs[-1]
    run.last_id = entry_id
    run.count += 1
    run.bytes += len(entry.body)
    if with_content:
        run.frames.append(entry.body.decode(errors="replace"))

"""Statements about undelivered messages.

**Who may take what.** A key's messages are those of one queue with one partition key, in the order of their ids. They
are taken from the front only: a message that waits for its next try, or that somebody holds, keeps all behind it from
being taken. Taking is a lease (`locked_by`, `locked_until`), so what a dead worker held is free once the lease runs
out. `locked_by` is another token for every claim: whoever lost a message in the meantime can change it no more.

**Slots.** Row locks cannot keep two claims from taking neighbours of one key at the same time, as each sees the table
as it was when it began. Therefore a claim first takes the slots it looks into: every key lies in one of `SLOTS`,
and the advisory locks on slots end with the claim's transaction. The hash is PostgreSQL's own and is computed nowhere
else: whichever it is, all processes of one database agree on it, and nothing stored depends on it. Delivery task p of
n serves the slots s with s mod n = p, which is `hash mod n` as n is a power of two up to `SLOTS`; processes with
different n take turns on the same slots.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import BigInteger, DateTime, Integer, Interval, String, TextClause, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.ext.asyncio import AsyncSession

SLOTS: Final = 64
"""The most delivery tasks that a process may have."""

# The first half of the advisory locks on slots. Any number will do, if it is ours.
SLOT_LOCK: Final = 7_243_907

MAX_ERROR_CHARS: Final = 2_000


@dataclass(frozen=True, slots=True)
class Message:
    """A message as a handler gets it."""

    id: int
    queue: str
    partition_key: str
    payload_type: str
    payload: Mapping[str, Any]
    dedupe_key: str | None
    attempts: int
    """Failed tries so far."""
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Held:
    """The right to settle a message: void once another claim has taken it."""

    id: int
    token: str


@dataclass(frozen=True, slots=True)
class Retry:
    held: Held
    delay: timedelta
    error: str


@dataclass(frozen=True, slots=True)
class Claim:
    messages: Sequence[Message]
    """Front first within a key."""
    was_contended: bool
    """Another process was claiming from some of the slots: there may be more in a moment."""


def slots_of(partition: int, *, partitions: int) -> list[int]:
    return list(range(partition, SLOTS, partitions))


_IS_ANY_DUE: Final = text(
    """
    SELECT EXISTS (
        SELECT FROM outbox_messages
        WHERE delivered_at IS NULL AND queue = ANY(:queues) AND available_at <= now()
          AND (locked_until IS NULL OR locked_until <= now())
          AND (hashtextextended(partition_key, 0) & (:slot_count - 1)) = ANY(:slots)
    )
    """
).bindparams(
    bindparam("queues", type_=ARRAY(String)),
    bindparam("slots", type_=ARRAY(BigInteger)),
    bindparam("slot_count", type_=BigInteger, value=SLOTS),
)

_TAKE_SLOTS: Final = text(
    "SELECT slot FROM unnest(:slots) AS slot WHERE pg_try_advisory_xact_lock(:lock, slot)"
).bindparams(bindparam("slots", type_=ARRAY(Integer)), bindparam("lock", type_=Integer))

# `waiting` reads every undelivered message of a queue by the partial index and sorts it by key: there is no telling
# whether a message is the first of its key otherwise. The cost is linear in what waits, and shared by a whole batch.
CLAIM: Final[TextClause] = text(
    """
    WITH ready AS MATERIALIZED (
        SELECT front.id, front.position
        FROM unnest(:queues, :quotas) AS wanted(queue, quota)
        CROSS JOIN LATERAL (
            SELECT waiting.id, waiting.position
            FROM (
                SELECT
                    id,
                    row_number() OVER older AS position,
                    bool_and(available_at <= now()) OVER older AS is_due,
                    bool_or(locked_until > now()) OVER (PARTITION BY partition_key) AS is_held
                FROM outbox_messages
                WHERE queue = wanted.queue
                  AND delivered_at IS NULL
                  AND (hashtextextended(partition_key, 0) & (:slot_count - 1)) = ANY(:slots)
                WINDOW older AS (PARTITION BY partition_key ORDER BY id)
            ) AS waiting
            WHERE waiting.is_due AND waiting.is_held IS NOT TRUE AND waiting.position <= :run
            ORDER BY waiting.position, waiting.id
            LIMIT wanted.quota
        ) AS front
    ), locked AS (
        SELECT message.id, message.queue, message.partition_key, ready.position
        FROM ready JOIN outbox_messages AS message ON message.id = ready.id
        WHERE message.delivered_at IS NULL
          AND message.available_at <= now()
          AND (message.locked_until IS NULL OR message.locked_until <= now())
        FOR UPDATE OF message SKIP LOCKED
    ), taken AS (
        -- Somebody whose lease ran out may just be settling a message: what is behind it has to wait for that.
        SELECT id FROM (
            SELECT id, position, row_number() OVER (PARTITION BY queue, partition_key ORDER BY id) AS rank FROM locked
        ) AS ranked
        WHERE position = rank
    )
    UPDATE outbox_messages AS message
    SET locked_by = :token, locked_until = now() + :lease
    FROM taken WHERE message.id = taken.id
    RETURNING message.id, message.queue, message.partition_key, message.payload_type, message.payload,
              message.dedupe_key, message.attempts, message.created_at
    """
).bindparams(
    bindparam("queues", type_=ARRAY(String)),
    bindparam("quotas", type_=ARRAY(Integer)),
    bindparam("slots", type_=ARRAY(BigInteger)),
    bindparam("slot_count", type_=BigInteger, value=SLOTS),
    bindparam("run", type_=Integer),
    bindparam("token", type_=String),
    bindparam("lease", type_=Interval),
)
_CLAIM_ROWS: Final = CLAIM.columns(
    id=BigInteger,
    queue=String,
    partition_key=String,
    payload_type=String,
    payload=JSONB,
    dedupe_key=String,
    attempts=Integer,
    created_at=DateTime(timezone=True),
)

_RENEW: Final = text(
    """
    UPDATE outbox_messages AS message SET locked_until = now() + :lease
    FROM unnest(:ids, :tokens) AS held(id, token)
    WHERE message.id = held.id AND message.locked_by = held.token AND message.delivered_at IS NULL
    RETURNING message.id
    """
).bindparams(
    bindparam("ids", type_=ARRAY(BigInteger)),
    bindparam("tokens", type_=ARRAY(String)),
    bindparam("lease", type_=Interval),
)

_DELIVERED: Final = text(
    """
    UPDATE outbox_messages AS message SET delivered_at = now(), locked_by = NULL, locked_until = NULL
    FROM unnest(:ids, :tokens) AS held(id, token)
    WHERE message.id = held.id AND message.locked_by = held.token AND message.delivered_at IS NULL
    RETURNING message.id
    """
).bindparams(bindparam("ids", type_=ARRAY(BigInteger)), bindparam("tokens", type_=ARRAY(String)))

_RELEASE: Final = text(
    """
    UPDATE outbox_messages AS message SET locked_by = NULL, locked_until = NULL
    FROM unnest(:ids, :tokens) AS held(id, token)
    WHERE message.id = held.id AND message.locked_by = held.token AND message.delivered_at IS NULL
    """
).bindparams(bindparam("ids", type_=ARRAY(BigInteger)), bindparam("tokens", type_=ARRAY(String)))

_RETRY: Final = text(
    """
    UPDATE outbox_messages AS message
    SET attempts = message.attempts + 1, available_at = now() + held.delay, last_error = held.error,
        locked_by = NULL, locked_until = NULL
    FROM unnest(:ids, :tokens, :delays, :errors) AS held(id, token, delay, error)
    WHERE message.id = held.id AND message.locked_by = held.token AND message.delivered_at IS NULL
    RETURNING message.id
    """
).bindparams(
    bindparam("ids", type_=ARRAY(BigInteger)),
    bindparam("tokens", type_=ARRAY(String)),
    bindparam("delays", type_=ARRAY(Interval)),
    bindparam("errors", type_=ARRAY(String)),
)

_BURY: Final = text(
    """
    WITH moved AS (
        DELETE FROM outbox_messages
        WHERE id = :id AND locked_by = :token AND delivered_at IS NULL
        RETURNING id, queue, partition_key, payload_type, payload, dedupe_key, attempts, created_at
    )
    INSERT INTO outbox_dead_letters
        (id, queue, partition_key, payload_type, payload, dedupe_key, attempts, created_at, reason, failed_at)
    SELECT id, queue, partition_key, payload_type, payload, dedupe_key, attempts + 1, created_at, :reason, now()
    FROM moved
    RETURNING id
    """
).bindparams(bindparam("id", type_=BigInteger), bindparam("token", type_=String), bindparam("reason", type_=String))


class OutboxRepository:
    """What a settling statement did not change had been taken by somebody else."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def is_any_due(self, slots: Sequence[int], queues: Sequence[str]) -> bool:
        """Whether a claim may find something: one cheap statement, which needs no transaction."""
        return bool(await self._session.scalar(_IS_ANY_DUE, {"queues": list(queues), "slots": list(slots)}))

    async def claim(
        self, slots: Sequence[int], quotas: Mapping[str, int], *, run: int, token: str, lease: timedelta
    ) -> Claim:
        """Take messages from the fronts of keys. Needs a transaction of its own, to be committed at once.

        Args:
            quotas: the most messages to take, by queue; other queues are left alone.
            run: the most messages of one key.
            token: never used before.
        """
        rows = await self._session.scalars(_TAKE_SLOTS, {"slots": list(slots), "lock": SLOT_LOCK})
        mine = list(rows)
        if not mine:
            return Claim((), was_contended=True)
        values = {
            "queues": list(quotas),
            "quotas": list(quotas.values()),
            "slots": mine,
            "run": run,
            "token": token,
            "lease": lease,
        }
        taken = await self._session.execute(_CLAIM_ROWS, values)
        messages = sorted((Message(**row) for row in taken.mappings()), key=lambda message: message.id)
        return Claim(messages, was_contended=len(mine) < len(slots))

    async def renew(self, held: Sequence[Held], *, lease: timedelta) -> set[int]:
        """Prolong the leases; the ids of those that are still held."""
        return set(await self._session.scalars(_RENEW, {**_pairs(held), "lease": lease}))

    async def mark_delivered(self, held: Sequence[Held]) -> set[int]:
        return set(await self._session.scalars(_DELIVERED, _pairs(held)))

    async def release(self, held: Sequence[Held]) -> None:
        """Leave them to whoever comes next, as if they had not been taken."""
        await self._session.execute(_RELEASE, _pairs(held))

    async def retry_later(self, retries: Sequence[Retry]) -> set[int]:
        values = {
            **_pairs([retry.held for retry in retries]),
            "delays": [retry.delay for retry in retries],
            "errors": [_storable(retry.error) for retry in retries],
        }
        return set(await self._session.scalars(_RETRY, values))

    async def bury(self, held: Held, *, reason: str) -> bool:
        """Make a dead letter of it, which frees the messages behind it."""
        values = {"id": held.id, "token": held.token, "reason": _storable(reason)}
        return await self._session.scalar(_BURY, values) is not None


def _pairs(held: Sequence[Held]) -> dict[str, list[Any]]:
    return {"ids": [one.id for one in held], "tokens": [one.token for one in held]}


def _storable(error: str) -> str:
    """PostgreSQL takes no NUL and no lone surrogate, and nobody reads a page of it."""
    return error.replace("\0", "").encode("utf-8", "replace").decode("utf-8")[:MAX_ERROR_CHARS]

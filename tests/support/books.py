"""The books of all users: what the buckets say against what turns and usage events say. They must agree exactly."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any
from uuid import UUID

import asyncpg

from tests.support.catalogs import PREMIUM

# One line for every bucket in which the two sides differ.
_DIFFERENCES = """
WITH reserving AS (
    SELECT t.*, t.effective_model = ANY($1::text[]) AS is_premium
    FROM chat_turns t WHERE t.reserved_credits_micro IS NOT NULL
), entries AS (
    SELECT t.tenant_id, t.requester_user_id AS user_id, p.type AS period_type,
        CASE p.type WHEN 'daily' THEN t.daily_period_start ELSE t.monthly_period_start END AS period_start,
        b.name AS bucket,
        CASE WHEN t.state = 'running' THEN t.reserved_credits_micro ELSE 0 END AS reserved,
        coalesce((o.payload->>'committed_credits_micro')::bigint, 0) AS spent
    FROM reserving t
    CROSS JOIN (VALUES ('daily'), ('monthly')) AS p (type)
    JOIN (VALUES ('total'), ('tier:premium')) AS b (name) ON b.name = 'total' OR t.is_premium
    LEFT JOIN outbox_messages o ON o.queue = 'usage_snapshot' AND o.payload->>'turn_id' = t.id::text
), expected AS (
    SELECT tenant_id, user_id, period_type, period_start, bucket, sum(reserved) AS reserved, sum(spent) AS spent
    FROM entries GROUP BY 1, 2, 3, 4, 5
)
SELECT user_id, period_type, period_start, bucket,
    q.reserved_credits_micro AS reserved, e.reserved AS expected_reserved,
    q.spent_credits_micro - coalesce(given.spent, 0) AS spent, e.spent AS expected_spent
FROM expected e
FULL JOIN quota_usage q USING (tenant_id, user_id, period_type, period_start, bucket)
LEFT JOIN unnest($2::uuid[], $3::text[], $4::text[], $5::bigint[]) AS given (user_id, period_type, bucket, spent)
    USING (user_id, period_type, bucket)
WHERE ($6::uuid IS NULL OR user_id = $6) AND (
    coalesce(q.reserved_credits_micro, 0) <> coalesce(e.reserved, 0)
    OR coalesce(q.spent_credits_micro, 0) - coalesce(given.spent, 0) <> coalesce(e.spent, 0)
)
"""

# A turn that has reserved has one usage event once it has ended, and none before; nothing else has any.
_EVENTS = """
SELECT t.id, t.state, count(o.id) AS events
FROM chat_turns t LEFT JOIN outbox_messages o ON o.queue = 'usage_snapshot' AND o.payload->>'turn_id' = t.id::text
WHERE $1::uuid IS NULL OR t.requester_user_id = $1
GROUP BY t.id, t.state
HAVING count(o.id) <> CASE WHEN t.state = 'running' OR t.reserved_credits_micro IS NULL THEN 0 ELSE 1 END
"""

_SET_SPENT = """
INSERT INTO quota_usage (id, tenant_id, user_id, period_type, period_start, bucket, spent_credits_micro, updated_at)
VALUES (gen_random_uuid(), $1, $2, $3,
    date_trunc(CASE $3::varchar WHEN 'daily' THEN 'day' ELSE 'month' END, now() AT TIME ZONE 'UTC')::date,
    $4, $5, now())
ON CONFLICT ON CONSTRAINT uq_quota_usage_bucket DO UPDATE SET spent_credits_micro = excluded.spent_credits_micro
"""


async def find_differences(
    database: asyncpg.Connection,
    *,
    premium: Collection[str] = (PREMIUM,),
    given: Collection[tuple[UUID, str, str, int]] = (),
    user_id: UUID | None = None,
) -> list[str]:
    """What does not agree, in words; nothing if all is well.

    Args:
        given: what tests had spent before, as user, period, bucket and micro-credits.
        user_id: whose books; everybody's unless told.
    """
    columns: tuple[list[Any], ...] = tuple([list(column) for column in zip(*given, strict=True)]) or ([], [], [], [])
    differences = await database.fetch(_DIFFERENCES, list(premium), *columns, user_id)
    events = await database.fetch(_EVENTS, user_id)
    return [str(dict(row)) for row in (*differences, *events)]


async def set_spent(
    database: asyncpg.Connection, tenant_id: UUID, user_id: UUID, spent: dict[tuple[str, str], int]
) -> list[tuple[UUID, str, str, int]]:
    """Have the user spent so much today, by period and bucket; the answer is `given` of `find_differences`."""
    for (period, bucket), amount in spent.items():
        await database.execute(_SET_SPENT, tenant_id, user_id, period, bucket, amount)
    return [(user_id, period, bucket, amount) for (period, bucket), amount in spent.items()]


async def read_buckets(database: asyncpg.Connection, user_id: UUID) -> dict[tuple[str, str], asyncpg.Record]:
    """The user's rows by period and bucket; of one period each, as long as no test crosses midnight."""
    rows = await database.fetch("SELECT * FROM quota_usage WHERE user_id = $1 ORDER BY period_start", user_id)
    return {(row["period_type"], row["bucket"]): row for row in rows}

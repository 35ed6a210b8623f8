"""Usage events leave a running system."""

from __future__ import annotations

import json

import asyncpg

from shared.ids import new_uuid4
from tests.support.deployment import Deployment
from tests.support.waiting import wait_until


async def test_a_worker_writes_usage_events_to_its_log(product: Deployment, database: asyncpg.Connection) -> None:
    event = {"event_type": "usage_snapshot", "turn_id": str(new_uuid4())}
    number = await database.fetchval(
        """
        INSERT INTO outbox_messages (queue, partition_key, payload_type, payload, dedupe_key, created_at)
        VALUES ('usage_snapshot', $1, 'usage_snapshot', $2::jsonb, $1, now()) RETURNING id
        """,
        event["turn_id"],
        json.dumps(event),
    )

    async def is_delivered() -> bool:
        query = "SELECT delivered_at IS NOT NULL FROM outbox_messages WHERE id = $1"
        return bool(await database.fetchval(query, number))

    await wait_until(is_delivered)
    (worker,) = product.workers
    (line,) = [json.loads(line) for line in worker.log.splitlines() if event["turn_id"] in line]
    assert (line["message"], line["event"], line["event_id"]) == ("usage_snapshot", event, event["turn_id"])

"""A claim in a table that is full of delivered messages."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

from sqlalchemy import text

from shared.db.engine import Sessions
from shared.outbox.repository import CLAIM, OutboxRepository, slots_of

DELIVERED, WAITING = 100_000, 10_000
_FILL = """
    INSERT INTO outbox_messages (queue, partition_key, payload_type, payload, created_at, delivered_at)
    SELECT 'usage_snapshot', md5((number % 2000)::text), 't',
           jsonb_build_object('number', number, 'fill', repeat('x', 500)),
           now(), CASE WHEN number <= CAST(:delivered AS integer) THEN now() END
    FROM generate_series(1, CAST(:all AS integer)) AS number
"""


def nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *(node for child in plan.get("Plans", ()) for node in nodes(child))]


async def test_a_claim_reads_only_what_waits(sessions: Sessions) -> None:
    """100 000 delivered and 10 000 waiting messages: the plan reads the partial index, never the table as a whole."""
    async with sessions.begin() as session:
        await session.execute(text(_FILL), {"delivered": DELIVERED, "all": DELIVERED + WAITING})
    async with sessions() as session:
        await session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
        await session.execute(text("VACUUM ANALYZE outbox_messages"))
    slots = slots_of(0, partitions=4)
    values = {
        "queues": ["usage_snapshot", "audit"],
        "quotas": [64, 64],
        "slots": slots,
        "slot_count": 64,
        "run": 16,
        "token": "t",
        "lease": timedelta(seconds=30),
    }
    async with sessions() as session:
        explain = text(f"EXPLAIN (ANALYZE, FORMAT JSON) {CLAIM.text}").bindparams(*CLAIM._bindparams.values())
        plan = await session.scalar(explain, values)
        await session.rollback()
        (document,) = json.loads(plan) if isinstance(plan, str) else plan
    scans = [node for node in nodes(document["Plan"]) if node.get("Relation Name") == "outbox_messages"]
    assert {node["Node Type"] for node in scans} <= {"Index Scan", "Bitmap Heap Scan", "ModifyTable"}
    assert "ix_outbox_messages_due" in {node.get("Index Name") for node in nodes(document["Plan"])}
    read = sum((node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"] for node in scans)
    assert read < 2 * WAITING, "none of the delivered ones"

    async with sessions.begin() as session:
        quotas = {"usage_snapshot": 64, "audit": 64}
        claim = await OutboxRepository(session).claim(slots, quotas, run=16, token="t", lease=timedelta(seconds=30))
    assert len(claim.messages) == 64

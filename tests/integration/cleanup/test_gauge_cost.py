"""What the gauges read: every process sets them again and again, so never all the chats that are there."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Select, text

from shared.attachments import gauges
from tests.integration.cleanup.scene import Scene

_FILL = (
    """
    INSERT INTO chats (id, tenant_id, user_id, model, created_at, updated_at, deleted_at)
    SELECT gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), 'm', now(), now(),
           CASE WHEN number % 20 = 0 THEN now() END
    FROM generate_series(1, 20000) AS number
    """,
    """
    INSERT INTO attachments (id, tenant_id, chat_id, uploaded_by_user_id, filename, content_type, size_bytes,
                             storage_backend, status, attachment_kind, created_at)
    SELECT gen_random_uuid(), tenant_id, id, user_id, 'f', 'text/plain', 1, 'openai',
           CASE WHEN random() < 0.05 THEN 'failed' ELSE 'ready' END, 'document', now()
    FROM chats
    """,
    "ANALYZE chats, attachments",
)


@pytest.mark.parametrize("statement", [gauges._NOT_READY, gauges._NOT_REMOVED], ids=["not ready", "not removed"])
async def test_no_gauge_of_attachments_reads_a_whole_table(scene: Scene, statement: Select[Any]) -> None:
    async with scene.sessions.begin() as session:
        dialect = (await session.connection()).dialect
        compiled = statement.compile(dialect=dialect, compile_kwargs={"literal_binds": True})
        for fill in _FILL:
            await session.execute(text(fill))
        plan = "\n".join(await session.scalars(text(f"EXPLAIN {compiled}")))
    assert "Seq Scan" not in plan, plan

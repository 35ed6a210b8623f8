from __future__ import annotations

from shared.clock import SystemClock
from shared.db.engine import Sessions
from shared.metrics import Metrics
from shared.outbox.enqueue import enqueue
from shared.outbox.gauges import measure_outbox
from shared.outbox.tables import OutboxMessage
from tests.support.outbox_rows import insert_messages, stored_messages


def message(dedupe_key: str | None = None) -> OutboxMessage:
    return OutboxMessage(queue="audit", partition_key="k", payload_type="t", payload={"a": 1}, dedupe_key=dedupe_key)


async def test_what_was_committed_is_counted_and_told(sessions: Sessions) -> None:
    metrics, woken = Metrics("test"), []
    async with sessions.begin() as session:
        assert await enqueue(session, [message("x"), message()], metrics=metrics, wake=lambda: woken.append(1)) == 2
        async with session.begin_nested():
            assert await enqueue(session, [message("x")], metrics=metrics) == 0
        assert woken == []
    assert woken == [1]
    count = metrics.registry.get_sample_value
    assert count("test_outbox_enqueue_total", {"kind": "audit", "result": "ok"}) == 2
    assert count("test_outbox_enqueue_total", {"kind": "audit", "result": "duplicate"}) == 1
    stored = await stored_messages(sessions)
    assert [(one.dedupe_key, one.attempts, one.payload) for one in stored] == [("x", 0, {"a": 1}), (None, 0, {"a": 1})]


async def test_what_was_rolled_back_is_not(sessions: Sessions) -> None:
    metrics, woken = Metrics("test"), []
    async with sessions() as session:
        await enqueue(session, [message()], metrics=metrics, wake=lambda: woken.append(1))
        await session.rollback()
    assert woken == []
    assert metrics.registry.get_sample_value("test_outbox_enqueue_total", {"kind": "audit", "result": "ok"}) is None
    assert await stored_messages(sessions) == []


async def test_gauges_tell_what_waits_and_what_has_failed(sessions: Sessions) -> None:
    metrics = Metrics("test")
    await insert_messages(sessions, "a", "b", queue="audit")
    await insert_messages(sessions, "c", queue="audit", delivered_at=SystemClock().now())
    await insert_messages(sessions, "d", queue="of_a_newer_release")
    await measure_outbox(sessions, metrics)
    value = metrics.registry.get_sample_value
    assert value("test_outbox_pending", {"kind": "audit"}) == 2
    assert value("test_outbox_pending", {"kind": "of_a_newer_release"}) == 1
    assert value("test_outbox_pending", {"kind": "usage_snapshot"}) == 0
    assert value("test_outbox_dead_letter_backlog", {"kind": "usage_snapshot"}) == 0

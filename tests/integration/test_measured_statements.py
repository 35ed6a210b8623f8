"""What the database is asked, as metrics tell it: by a bounded set of names."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from sqlalchemy import insert, select, text, update
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.chats.tables import Chat
from shared.db.engine import create_engine
from shared.db.measured import measure_statements, query_name
from shared.ids import new_uuid4
from shared.metrics import Metrics
from shared.settings import DatabaseSettings
from shared.turns.tables import Turn


@pytest.fixture
def metrics() -> Metrics:
    return Metrics("test")


@pytest.fixture
async def engine(database_url: str, metrics: Metrics) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(DatabaseSettings.model_validate({"url": database_url}), pool_size=1)
    measure_statements(engine, metrics)
    yield engine
    await engine.dispose()


def count(metrics: Metrics, query: str) -> float | None:
    return metrics.registry.get_sample_value("test_db_query_latency_ms_count", {"query": query})


def errors(metrics: Metrics, query: str, code: str) -> float | None:
    return metrics.registry.get_sample_value("test_db_errors_total", {"query": query, "code": code})


@pytest.mark.parametrize(
    ("statement", "name"),
    [
        ("SELECT 1", "other"),
        ("SELECT pg_try_advisory_xact_lock(7) FROM elsewhere", "other"),
        ("VACUUM chats", "other"),
        ('\n  select c.id from "chats" AS c', "select chats"),
        ("SELECT x FROM jsonb_each(:y) JOIN messages ON true", "select messages"),
        ("WITH due AS (SELECT id FROM outbox_messages) DELETE FROM chats", "with outbox_messages"),
    ],
)
def test_a_name_is_a_verb_and_a_table_of_ours(statement: str, name: str) -> None:
    assert query_name(statement) == name


async def test_statements_are_timed_by_what_they_do(engine: AsyncEngine, metrics: Metrics) -> None:
    touched = update(Chat).values(title="x").returning(Chat.id).cte("touched")
    async with engine.begin() as connection:
        await connection.execute(select(Turn.id).limit(1))
        await connection.execute(update(Turn).where(Turn.chat_id == touched.c.id).values(attempt=1))
        await connection.execute(text("SELECT 1"))
    assert [count(metrics, query) for query in ("select chat_turns", "update chat_turns", "other")] == [1, 1, 1]
    assert count(metrics, "update chats") is None


async def test_errors_are_counted_by_their_code(engine: AsyncEngine, metrics: Metrics) -> None:
    with pytest.raises(DBAPIError):
        async with engine.begin() as connection:
            await connection.execute(insert(Chat).values(id=new_uuid4()))
    assert errors(metrics, "insert chats", "23502") == 1


async def test_a_server_that_is_away_is_counted(metrics: Metrics) -> None:
    engine = create_engine(DatabaseSettings.model_validate({"url": "postgresql://nobody@127.0.0.1:1/none"}))
    measure_statements(engine, metrics)
    with pytest.raises((OSError, SQLAlchemyError)):
        async with engine.connect():
            pass
    assert errors(metrics, "connect", "unknown") == 1
    await engine.dispose()

"""What only the stores can show or bring about: rows that no request makes yet, logs that have expired."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import asyncpg

from shared.valkey.keyspace import TurnKeys
from tests.support.deployment import Deployment
from tests.support.turns import ToldTurn


def expire_log(product: Deployment, turn: ToldTurn) -> None:
    """Make Valkey forget the turn's log, as it does some time after the end."""
    with product.valkey() as valkey:
        assert valkey.delete(TurnKeys(UUID(turn.chat_id), UUID(turn.request_id)).events) == 1


async def cancel_in_storage(database: asyncpg.Connection, turn: ToldTurn) -> None:
    """Turn an ended turn into a cancelled one; what it has stored stays, as the text shown so far."""
    await _update(database, turn, "state = 'cancelled', error_code = NULL, cancel_trigger = 'user_stop'")


async def delete_in_storage(database: asyncpg.Connection, turn: ToldTurn) -> None:
    await _update(database, turn, "deleted_at = now()")


async def cite_in_storage(database: asyncpg.Connection, turn: ToldTurn, citations: str) -> None:
    """Store citations, as JSON, with the turn's answer."""
    await database.execute("UPDATE messages SET citations = $1 WHERE id = $2", citations, UUID(turn.message_id))


async def find_turn(database: asyncpg.Connection, turn: ToldTurn) -> dict[str, Any]:
    row = await database.fetchrow(
        "SELECT * FROM chat_turns WHERE chat_id = $1 AND request_id = $2", UUID(turn.chat_id), UUID(turn.request_id)
    )
    assert row is not None
    return dict(row)


async def store_file(database: asyncpg.Connection, chat_id: str, **columns: Any) -> str:
    """A file of the chat that is ready; a text file, indexed, unless `columns` say otherwise. Its id."""
    values: dict[str, Any] = {
        "filename": "notes.txt",
        "content_type": "text/plain",
        "size_bytes": 5,
        "storage_backend": "openai",
        "provider_file_id": "file-0a1b2c3d",
        "status": "ready",
        "attachment_kind": "document",
        "for_file_search": True,
        "for_code_interpreter": False,
    } | columns
    names = ", ".join(values)
    places = ", ".join(f"${number}" for number in range(2, len(values) + 2))
    row = await database.fetchrow(
        f"""
        INSERT INTO attachments (id, tenant_id, chat_id, uploaded_by_user_id, {names}, created_at, updated_at)
        SELECT gen_random_uuid(), tenant_id, id, user_id, {places}, now(), now() FROM chats WHERE id = $1 RETURNING id
        """,  # noqa: S608 (our own names)
        UUID(chat_id),
        *values.values(),
    )
    assert row is not None
    return str(row["id"])


async def store_vector_store(database: asyncpg.Connection, chat_id: str, store_id: str = "vs_0a1b2c3d") -> None:
    await database.execute(
        "INSERT INTO chat_vector_stores (id, tenant_id, chat_id, vector_store_id, provider, file_count, created_at)"
        " SELECT gen_random_uuid(), tenant_id, id, $2, 'openai', 1, now() FROM chats WHERE id = $1",
        UUID(chat_id),
        store_id,
    )


async def count_rows(database: asyncpg.Connection, chat_id: str) -> dict[str, int]:
    """How many turns, messages and outgoing events the chat has, deleted ones included."""
    row = await database.fetchrow(
        """
        SELECT (SELECT count(*) FROM chat_turns WHERE chat_id = $1) AS turns,
               (SELECT count(*) FROM messages WHERE chat_id = $1) AS messages,
               (SELECT count(*) FROM outbox_messages WHERE payload::text LIKE '%' || $1::text || '%') AS outbox
        """,
        UUID(chat_id),
    )
    assert row is not None
    return dict(row)


async def _update(database: asyncpg.Connection, turn: ToldTurn, assignments: str) -> None:
    done = await database.execute(
        f"UPDATE chat_turns SET {assignments} WHERE chat_id = $1 AND request_id = $2",  # noqa: S608 (our own text)
        UUID(turn.chat_id),
        UUID(turn.request_id),
    )
    assert done == "UPDATE 1"

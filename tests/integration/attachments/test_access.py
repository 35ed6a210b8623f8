"""Reading and deleting attachments: who may, what is shown, and what a deletion leaves for the cleanup."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import asyncpg
import httpx
import pytest
from sqlalchemy import update

from shared.attachments.tables import Attachment
from shared.clock import rfc3339
from shared.ids import new_uuid4
from shared.outbox.messages import ATTACHMENT_CLEANUP
from tests.integration.api.rows import attach, store_attachment, store_turn
from tests.integration.attachments.conftest import Place
from tests.support.problems import assert_problem
from tests.support.stored import store_vector_store
from tests.support.tokens import Caller
from tests.support.turns import create_chat
from tests.support.uploads import attachments_path, image, send_file, uploaded

NOW = datetime(2026, 3, 1, tzinfo=UTC)


async def change(place: Place, attachment_id: str, **columns: object) -> None:
    async with place.api.context.sessions.begin() as session:
        statement = update(Attachment).where(Attachment.id == UUID(attachment_id)).values(**columns)
        await session.execute(statement)


@pytest.mark.parametrize(("stored", "shown"), [("pending", "pending"), ("uploaded", "pending"), ("ready", "ready")])
async def test_what_is_not_indexed_yet_is_pending(place: Place, stored: str, shown: str) -> None:
    row = await store_attachment(place.api.context.sessions, place.chat_id, place.user, status=stored, error_code="x")
    answer = (await place.client.get(attachments_path(place.chat_id, str(row.id)))).json()
    assert (answer["status"], answer["created_at"]) == (shown, rfc3339(row.created_at))
    assert "error_code" not in answer


async def test_a_document_shows_its_summary_and_a_failure_its_code(place: Place) -> None:
    document = await uploaded(place.client, place.chat_id)
    path = attachments_path(place.chat_id, document["id"])
    await change(place, document["id"], doc_summary="Short.", summary_updated_at=NOW)
    shown = (await place.client.get(path)).json()
    assert (shown["doc_summary"], shown["summary_updated_at"]) == ("Short.", rfc3339(NOW))
    await change(place, document["id"], status="failed", error_code="indexing_failed")
    assert (await place.client.get(path)).json()["error_code"] == "indexing_failed"


async def test_no_answer_names_the_provider_s_file(place: Place) -> None:
    answers = [await send_file(place.client, place.chat_id)]
    answers.append(await place.client.get(attachments_path(place.chat_id, answers[0].json()["id"])))
    file_id = (await place.row()).provider_file_id
    assert file_id
    assert all(file_id not in answer.text and "file-" not in str(answer.headers) for answer in answers)


async def test_attachments_of_others_do_not_exist(place: Place) -> None:
    attachment_id = (await uploaded(place.client, place.chat_id))["id"]
    other_chat = await create_chat(place.client)
    async with place.api.client(Caller(tenant_id=place.user.tenant_id)) as stranger:
        for method in ("GET", "DELETE"):
            answer = await stranger.request(method, attachments_path(place.chat_id, attachment_id))
            assert_problem(answer, 404, "chat_not_found")
        assert_problem(await send_file(stranger, place.chat_id), 404, "chat_not_found")
    for method in ("GET", "DELETE"):
        for chat_id, some_id in ((other_chat, attachment_id), (place.chat_id, str(new_uuid4()))):
            answer = await place.client.request(method, attachments_path(chat_id, some_id))
            assert_problem(answer, 404, "attachment_not_found")
        answer = await place.client.request(method, attachments_path(place.chat_id, "nonsense"))
        assert_problem(answer, 400, "invalid_request")


async def test_permissions_are_asked_for_one_by_one(place: Place) -> None:
    """Without one the chat does not exist, and a body is not read."""
    attachment_id = (await uploaded(place.client, place.chat_id))["id"]
    path = attachments_path(place.chat_id, attachment_id)

    async def statuses(scope: str) -> tuple[int, int, int]:
        user = Caller(place.user.tenant_id, place.user.user_id, scope)
        async with place.api.client(user) as client:
            read, upload = await client.get(path), await send_file(client, place.chat_id, content_type="text/nothing")
            return upload.status_code, read.status_code, (await client.delete(path)).status_code

    assert await statuses("ai:mini_chat:read") == (404, 200, 404)
    assert await statuses("ai:mini_chat:write") == (415, 404, 204)


async def test_what_another_user_has_uploaded_can_be_seen_but_not_deleted(place: Place) -> None:
    attachment_id = (await uploaded(place.client, place.chat_id))["id"]
    await change(place, attachment_id, uploaded_by_user_id=new_uuid4())
    path = attachments_path(place.chat_id, attachment_id)
    assert (await place.client.get(path)).status_code == httpx.codes.OK
    for deleted_at in (None, NOW):
        await change(place, attachment_id, deleted_at=deleted_at)
        assert_problem(await place.client.delete(path), 403, "insufficient_permissions")


async def test_71_a_deletion_leaves_one_message_that_says_what_to_remove(place: Place, database_url: str) -> None:
    attachment_id = (await uploaded(place.client, place.chat_id))["id"]
    connection = await asyncpg.connect(database_url)
    await store_vector_store(connection, place.chat_id)
    await connection.close()
    path = attachments_path(place.chat_id, attachment_id)
    for _ in range(2):
        assert (await place.client.delete(path)).status_code == 204
        assert_problem(await place.client.get(path), 404, "attachment_not_found")
    row = await place.row()
    assert row.deleted_at
    (message,) = await place.messages(ATTACHMENT_CLEANUP)
    assert message == {
        "event_type": "attachment_deleted",
        "tenant_id": str(place.user.tenant_id),
        "chat_id": place.chat_id,
        "attachment_id": attachment_id,
        "provider_file_id": row.provider_file_id,
        "vector_store_id": "vs_0a1b2c3d",
        "storage_backend": "openai",
        "attachment_kind": "document",
        "deleted_at": rfc3339(row.deleted_at),
    }
    assert row.cleanup_status == "pending"


@pytest.mark.parametrize("is_message_deleted", [False, True])
async def test_71_what_a_message_refers_to_stays(place: Place, is_message_deleted: bool) -> None:
    sessions = place.api.context.sessions
    shown = await uploaded(place.client, place.chat_id, image(), filename="a.png", content_type="image/png")
    turn = await store_turn(sessions, place.chat_id, place.user)
    await attach(sessions, turn.question, await place.row(), at=NOW)
    if is_message_deleted:
        async with sessions.begin() as session:
            message = await session.get_one(type(turn.question), turn.question.id)
            message.deleted_at = NOW
    path = attachments_path(place.chat_id, shown["id"])
    assert_problem(await place.client.delete(path), 409, "attachment_locked")
    assert (await place.client.get(path)).status_code == httpx.codes.OK
    assert await place.messages(ATTACHMENT_CLEANUP) == []

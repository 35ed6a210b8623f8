"""Uploads that meet other uploads, deletions, clients that leave, and the death of their process at every step."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import func, update
from starlette.requests import ClientDisconnect

from api.attachments.upload import UploadRequest, upload_attachment
from api.auth import ALL_ACTIONS, Principal
from shared.attachments.errors import AttachmentNotFoundError
from shared.attachments.tables import Attachment
from shared.chats.errors import ChatNotFoundError
from shared.ids import ChatId, TenantId, UserId
from shared.outbox.messages import ATTACHMENT_CLEANUP, CHAT_CLEANUP
from tests.integration.attachments.conftest import OpenPlace, Place
from tests.support.killing import KilledAt, KilledError
from tests.support.problems import assert_problem
from tests.support.uploads import (
    FORM,
    MIB,
    attachments_path,
    body,
    chunked,
    image,
    part,
    send_body,
    send_file,
    uploaded,
)
from tests.support.waiting import wait_until
from worker.attachments.failed import FailedAttachments
from worker.attachments.stuck import StuckUploads
from worker.cleanup.files import FileCleanup
from worker.cleanup.removal import Removal

pytestmark = [
    pytest.mark.usefixtures("what_the_dead_have_opened"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


def upload(place: Place, content: bytes | AsyncIterator[bytes]) -> Coroutine[Any, Any, Attachment]:
    """The use case itself, as the route calls it."""
    user = place.user
    principal = Principal(TenantId(user.tenant_id), UserId(user.user_id), ALL_ACTIONS, frozenset())
    chunks = chunked(content) if isinstance(content, bytes) else content
    length = len(content) if isinstance(content, bytes) else None
    request = UploadRequest(ChatId(UUID(place.chat_id)), FORM, length, chunks)
    return upload_attachment(request, principal, place.api.context)


async def test_69_the_51st_document_is_refused_however_many_come_at_once(open_place: OpenPlace) -> None:
    async with open_place(rag={"max_documents_per_chat": 5}) as place:
        answers = await asyncio.gather(*(send_file(place.client, place.chat_id) for _ in range(8)))
        codes = [answer.json().get("code") for answer in answers]
        assert sorted(filter(None, codes)) == ["document_limit_exceeded"] * 3
        assert {answer.status_code for answer in answers if answer.status_code != 201} == {400}
        assert len(await place.provider.files()) == len(await place.rows()) == 5
        assert place.metric("upload_rejected_total", reason="max_documents") == 3
        # Images are no documents; and what has failed or is deleted makes room.
        await uploaded(place.client, place.chat_id, image(), filename="a.png", content_type="image/png")
        first, second, *_ = await place.rows()
        await place.client.delete(attachments_path(place.chat_id, str(first.id)))
        async with place.api.context.sessions.begin() as session:
            await session.execute(update(Attachment).where(Attachment.id == second.id).values(status="failed"))
        assert [(await send_file(place.client, place.chat_id)).status_code for _ in range(3)] == [201, 201, 400]


@pytest.mark.parametrize("is_chunked", [False, True])
async def test_69_the_files_of_a_chat_fit_together_however_many_come_at_once(
    open_place: OpenPlace, is_chunked: bool
) -> None:
    """With lengths the sum is known before a file is read; without, it is looked at again when it is there."""
    async with open_place(rag={"max_total_upload_mb_per_chat": 1}) as place:
        whole = body(part(b"x" * (MIB // 3)))
        sent = [chunked(whole) if is_chunked else whole for _ in range(6)]
        answers = await asyncio.gather(*(send_body(place.client, place.chat_id, one) for one in sent))
        assert sorted(answer.status_code for answer in answers) == [201] * 3 + [400] * 3
        refused = {answer.json()["code"] for answer in answers if answer.status_code == 400}
        assert refused == {"storage_limit_exceeded"}
        rows = await place.rows()
        live = [row for row in rows if row.status == "uploaded"]
        assert sum(row.size_bytes for row in live) == 3 * (MIB // 3)
        gone = [row for row in rows if row.status != "uploaded"]
        assert {(row.status, row.error_code, row.cleanup_status) for row in gone} == (
            {("failed", "storage_limit_exceeded", "pending")} if is_chunked else set()
        )
        for row in gone:
            shown = (await place.client.get(attachments_path(place.chat_id, str(row.id)))).json()
            assert (shown["status"], shown["error_code"]) == ("failed", "storage_limit_exceeded")
        messages = await place.messages(ATTACHMENT_CLEANUP)
        left = {file["id"] for file in await place.provider.files()} - {row.provider_file_id for row in live}
        assert {message["provider_file_id"] for message in messages} == left
        assert len(left) == (3 if is_chunked else 0)
        # To the last byte.
        rest = MIB - 3 * (MIB // 3)
        assert (await send_file(place.client, place.chat_id, b"x" * (rest + 1))).status_code == 400
        assert (await send_file(place.client, place.chat_id, b"x" * rest)).status_code == 201


async def test_a_chat_that_is_deleted_meanwhile_takes_the_file_with_it(place: Place) -> None:
    await place.provider.queue({"storage": "files", "delay_ms": 300})
    sending = asyncio.ensure_future(send_file(place.client, place.chat_id))
    await wait_until(lambda: is_sending(place))
    assert (await place.client.delete(f"/chats/{place.chat_id}")).status_code == 204
    answer = await sending
    assert (answer.status_code, answer.json()["code"]) == (404, ChatNotFoundError.code)
    row, (file,) = await place.row(), await place.provider.files()
    assert (row.status, row.provider_file_id, row.cleanup_status) == ("failed", file["id"], "pending")
    # The first message may have been dealt with before the file was there.
    assert len(await place.messages(CHAT_CLEANUP)) == 2


async def test_an_attachment_that_is_deleted_meanwhile_takes_its_file_with_it(place: Place) -> None:
    await place.provider.queue({"storage": "files", "delay_ms": 300})
    sending = asyncio.ensure_future(send_file(place.client, place.chat_id))
    await wait_until(lambda: is_sending(place))
    path = attachments_path(place.chat_id, str((await place.row()).id))
    assert (await place.client.get(path)).json()["status"] == "pending"
    assert (await place.client.delete(path)).status_code == 204
    answer = await sending
    assert (answer.status_code, answer.json()["code"]) == (404, AttachmentNotFoundError.code)
    assert (await place.client.get(path)).status_code == 404
    row, (file,) = await place.row(), await place.provider.files()
    assert (row.status, row.provider_file_id, row.cleanup_status) == ("failed", file["id"], "pending")
    first, second = await place.messages(ATTACHMENT_CLEANUP)
    assert (first["provider_file_id"], second["provider_file_id"]) == (None, file["id"])


async def is_sending(place: Place) -> bool:
    """The row is there, and the provider has the file."""
    rows, requests = await place.rows(), await place.provider.requests("/files")
    return bool(rows) and bool(requests)


async def test_a_client_that_leaves_meanwhile_leaves_a_failed_row(place: Place) -> None:
    async def leaving() -> AsyncIterator[bytes]:
        yield part(b"x" * 1_000_000)
        raise ClientDisconnect

    with pytest.raises(ClientDisconnect):
        await upload(place, leaving())
    row = await place.row()
    assert (row.status, row.error_code) == ("failed", "upload_failed")
    assert await place.provider.files() == []
    assert place.api.context.upload_permits._free == 10


async def test_an_upload_that_is_cancelled_leaves_a_failed_row(place: Place) -> None:
    await place.provider.queue({"storage": "files", "delay_ms": 60_000})
    task = asyncio.ensure_future(upload(place, body(part())))
    await wait_until(lambda: is_sending(place))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await place.row()).status == "failed"


@pytest.mark.parametrize("filename", ["notes.txt", "image.png"])
async def test_killed_at_any_step_an_upload_is_ended_by_a_worker(place: Place, filename: str) -> None:
    """Whatever has been written when the process dies, a worker brings it to an end that both sides agree on."""
    is_image = filename.endswith("png")
    whole = body(
        part(
            image() if is_image else b"x" * 100_000,
            filename=filename,
            content_type="image/png" if is_image else "text/plain",
        )
    )
    for step in range(1, 200):
        try:
            await KilledAt(upload(place, whole), step=step)
        except KilledError:
            continue
        break
    assert step > 20
    end = "ready" if is_image else "uploaded"
    assert {row.status for row in await place.rows()} == {"pending", end}
    await age_all(place)
    await stuck_uploads_of(place).run()
    await agree(place)


async def test_only_a_file_that_the_provider_may_have_is_searched_for(place: Place) -> None:
    """Clients that leave are common, and lists of all files of an account are long."""

    async def searches() -> int:
        await age_all(place)
        await stuck_uploads_of(place).run()
        return sum(request["method"] == "GET" for request in await place.provider.requests("/files"))

    for _ in range(2):
        assert_problem(await send_body(place.client, place.chat_id, part(b"x" * 100)), 400, "invalid_request")
    await place.provider.queue({"storage": "files", "http_status": 400})
    assert_problem(await send_file(place.client, place.chat_id), 502, "provider_error")
    path = attachments_path(place.chat_id, str((await place.rows())[0].id))
    assert (await place.client.delete(path)).status_code == 204
    assert await searches() == 0
    await place.provider.queue({"storage": "files", "http_status": 502, "has_effect": True})
    assert_problem(await send_file(place.client, place.chat_id), 502, "provider_error")
    assert len(await place.provider.files()) == 1
    assert await searches() == 1
    assert await place.provider.files() == []
    assert {(row.status, row.error_code, row.cleanup_status) for row in await place.rows()} == {
        ("failed", "upload_failed", "done")
    }


async def agree(place: Place) -> None:
    """Every attachment has ended, or waits for its index; the provider has a file of exactly those that are alive."""
    rows = await place.rows()
    alive = {row.provider_file_id for row in rows if row.status in ("ready", "uploaded")}
    assert {(row.status, row.error_code) for row in rows if row.provider_file_id is None} == {
        ("failed", "upload_failed")
    }
    assert None not in alive
    assert {file["id"] for file in await place.provider.files()} == alive


def stuck_uploads_of(place: Place) -> StuckUploads:
    context = place.api.context
    removal = Removal(context.storages, context.metrics)
    files = FileCleanup(context.sessions, removal, context.metrics, max_attempts=5)
    return StuckUploads(
        sessions=context.sessions,
        storages=context.storages,
        failed=FailedAttachments(context.sessions, files),
        queue=context.queue,
        metrics=context.metrics,
        clock=context.clock,
    )


async def age_all(place: Place) -> None:
    """Make uploads as old as they are when workers look for them."""
    async with place.api.context.sessions.begin() as session:
        old = func.now() - func.make_interval(0, 0, 0, 0, 0, 16)
        unfinished = update(Attachment).where(Attachment.status.in_(("pending", "failed")))
        await session.execute(unfinished.values(created_at=old, updated_at=old))

"""Uploads that succeed, those that are refused, in the order of the checks, and what each leaves behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar
from uuid import UUID

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from api.attachments import rows
from shared.attachments.tables import Attachment, ChatVectorStore
from shared.chats.tables import Chat
from shared.clock import SystemClock
from shared.db.engine import Sessions
from shared.db.transaction import run_transaction
from shared.ids import new_uuid7
from shared.quotas.tables import QuotaUsage
from tests.integration.attachments.conftest import TIMEOUTS, OpenPlace, Place
from tests.support.catalogs import NANO, PREMIUM, STANDARD
from tests.support.problems import assert_problem
from tests.support.tokens import Caller
from tests.support.uploads import (
    FORM,
    MIB,
    XLSX,
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

T = TypeVar("T")

PDF = {"filename": "a.pdf", "content_type": "application/pdf"}
PNG = {"filename": "a.png", "content_type": "image/png"}
SHEET = {"filename": "a.xlsx", "content_type": XLSX}


@pytest.mark.parametrize(("model", "backend"), [(STANDARD, "openai"), (PREMIUM, "azure")])
async def test_a_document_is_stored_under_our_name_and_waits_for_its_index(
    open_place: OpenPlace, model: str, backend: str
) -> None:
    async with open_place(model=model) as place:
        shown = await uploaded(place.client, place.chat_id, b"hello world", filename="Notes (1).txt")
        row, (file,) = await place.row(), await place.provider.files()
    assert shown == {
        "id": str(row.id),
        "filename": "Notes (1).txt",
        "content_type": "text/plain",
        "size_bytes": 11,
        "status": "pending",
        "kind": "document",
        "created_at": shown["created_at"],
    }
    assert (row.status, row.size_bytes, row.storage_backend) == ("uploaded", 11, backend)
    assert (row.for_file_search, row.for_code_interpreter) == (True, False)
    assert row.provider_file_id == file["id"]
    assert (file["filename"], file["bytes"], file["purpose"]) == (f"{place.chat_id}_{row.id}.txt", 11, "assistants")
    assert place.metric("attachment_upload_total", kind="document", result="ok") == 1
    assert place.metric("attachment_upload_bytes_sum", kind="document") == 11


async def test_images_and_spreadsheets_are_ready_at_once_and_image_bytes_are_counted(place: Place) -> None:
    content = image()
    shown = await uploaded(place.client, place.chat_id, content, **PNG)
    assert (shown["kind"], shown["status"], shown["size_bytes"]) == ("image", "ready", len(content))
    thumbnail = shown["img_thumbnail"]
    assert (thumbnail["content_type"], thumbnail["width"], thumbnail["height"]) == ("image/webp", 128, 85)
    sheet = await uploaded(place.client, place.chat_id, filename="a.XLSX", content_type="application/octet-stream")
    assert (sheet["kind"], sheet["status"], sheet["content_type"]) == ("document", "ready", XLSX)
    assert not {"doc_summary", "img_thumbnail", "error_code"} & sheet.keys()
    path = attachments_path(place.chat_id, shown["id"])
    assert (await place.client.get(path)).json() == shown
    counted = await image_bytes_of(place)
    assert counted == {"daily": len(content), "monthly": len(content)}


async def image_bytes_of(place: Place) -> dict[str, int]:
    async with place.api.context.sessions() as session:
        statement = select(QuotaUsage.period_type, QuotaUsage.image_upload_bytes).where(QuotaUsage.bucket == "total")
        return {row.period_type: row.image_upload_bytes for row in await session.execute(statement)}


async def test_an_image_without_a_thumbnail_is_an_image_all_the_same(place: Place) -> None:
    shown = await uploaded(place.client, place.chat_id, b"PK\x03\x04 an archive", **PNG)
    assert shown["status"] == "ready"
    assert "img_thumbnail" not in shown


async def test_other_parts_are_skipped_and_the_first_file_counts(place: Place) -> None:
    whole = body(part(b"x" * 70_000, name="other", filename=None), part(b"one"), part(b"two"), part(b"3", name="z"))
    answer = await send_body(place.client, place.chat_id, chunked(whole, size=999))
    assert answer.json()["size_bytes"] == 3
    answer = await send_body(place.client, place.chat_id, body(part(b"no name", filename=None)))
    assert answer.json()["filename"] == "upload"


async def test_a_body_that_is_no_form_with_a_file_leaves_no_trace(place: Place) -> None:
    for content_type, content in (
        ("application/json", b"{}"),
        ("multipart/form-data", body(part())),
        ("multipart/mixed; boundary=a-boundary", body(part())),
        (FORM, b""),
        (FORM, b"nonsense"),
        (FORM, body(part(name="other"))),
        (FORM, body(part(content_type=None))),
        (FORM, part()[:60]),
    ):
        answer = await send_body(place.client, place.chat_id, content, content_type=content_type)
        assert_problem(answer, 400, "invalid_request")
        assert await place.rows() == [], (content_type, content)


async def test_a_body_that_is_cut_short_leaves_a_failed_row_and_no_file(place: Place) -> None:
    for whole in (body(part(b"x" * 300_000))[:-20], part(b"x" * 300_000)):
        assert_problem(await send_body(place.client, place.chat_id, whole), 400, "invalid_request")
    assert [(row.status, row.error_code) for row in await place.rows()] == [("failed", "upload_failed")] * 2
    assert await place.provider.files() == []


@pytest.mark.parametrize("is_chunked", [False, True])
@pytest.mark.parametrize(("file", "limit"), [(PDF, 25_600 * 1024), (PNG, 5_120 * 1024)])
async def test_a_file_may_have_as_many_bytes_as_its_kind_may(
    place: Place, file: dict[str, str], limit: int, is_chunked: bool
) -> None:
    def sent(size: int) -> bytes | AsyncIterator[bytes]:
        whole = body(part(b"\0" * size, **file))
        return chunked(whole) if is_chunked else whole

    assert (await send_body(place.client, place.chat_id, sent(limit))).json()["size_bytes"] == limit
    too_large = await send_body(place.client, place.chat_id, sent(limit + 1))
    assert_problem(too_large, 413, "file_too_large")
    failed = [(row.status, row.error_code) for row in await place.rows()][1:]
    assert failed == [("failed", "file_too_large")]
    assert len(await place.provider.files()) == 1
    far_too_large = await send_body(place.client, place.chat_id, sent(limit + 65_536 + 1))
    assert_problem(far_too_large, 413, "file_too_large")
    # With a length nothing was read, so that there was nothing to keep a row for.
    assert len(await place.rows()) == (3 if is_chunked else 2)
    kind = "image" if file is PNG else "document"
    assert place.metric("attachment_upload_total", kind=kind, result="file_too_large") == 2
    assert place.metric("upload_rejected_total", reason="max_size") == 2


async def test_the_limit_of_the_model_counts_where_it_is_lower(open_place: OpenPlace) -> None:
    def lower(tree: dict[str, Any]) -> None:
        tree["model_catalog"][1]["general_config"]["max_file_size_mb"] = 1

    async with open_place(change_catalog=lower) as place:
        answer = await send_file(place.client, place.chat_id, b"x" * (MIB + 1))
        assert_problem(answer, 413, "file_too_large")
        await uploaded(place.client, place.chat_id, b"x" * MIB)


async def test_types_that_are_not_taken_leave_no_trace(place: Place) -> None:
    for content_type in ("application/zip", "application/octet-stream", "image/svg+xml", "nonsense"):
        answer = await send_file(place.client, place.chat_id, filename="a.zip", content_type=content_type)
        assert_problem(answer, 415, "unsupported_file_type")
        assert await place.rows() == [], content_type
    for kind, count in (("document", 3), ("image", 1)):
        assert place.metric("attachment_upload_total", kind=kind, result="unsupported_type") == count


async def test_what_is_switched_off_is_refused(open_place: OpenPlace) -> None:
    def switch_off(tree: dict[str, Any]) -> None:
        tree["kill_switches"] = {"disable_images": True, "disable_code_interpreter": True}

    async with open_place(change_catalog=switch_off, rag={"allow_csv_upload": False}) as place:
        assert_problem(await send_file(place.client, place.chat_id, image(), **PNG), 400, "images_disabled")
        assert_problem(await send_file(place.client, place.chat_id, b"x", **SHEET), 422, "validation_error")
        csv = await send_file(place.client, place.chat_id, filename="a.csv", content_type="text/csv")
        assert_problem(csv, 415, "unsupported_file_type")
        assert await place.rows() == []
        await uploaded(place.client, place.chat_id)


async def test_a_spreadsheet_needs_a_model_that_runs_code(open_place: OpenPlace) -> None:
    async with open_place(model=NANO) as place:
        assert_problem(await send_file(place.client, place.chat_id, b"x", **SHEET), 422, "validation_error")


async def test_the_checks_come_in_their_order(open_place: OpenPlace) -> None:
    """Each request breaks every rule from some point on; the answer is that of the first."""

    def switch_off(tree: dict[str, Any]) -> None:
        tree["kill_switches"] = {"disable_images": True, "disable_code_interpreter": True}

    rag = {
        "max_concurrent_uploads": 1,
        "uploaded_file_max_size_kb": 1,
        "uploaded_image_max_size_kb": 1,
        "max_upload_bytes_per_user_per_day": 1,
        "max_documents_per_chat": 1,
    }
    large = b"x" * 100_000
    async with open_place(change_catalog=switch_off, rag=rag) as place:

        async def refused(content: bytes, content_type: str = FORM, chat_id: str = place.chat_id) -> tuple[int, str]:
            answer = await send_body(place.client, chat_id, content, content_type=content_type)
            return answer.status_code, answer.json()["code"]

        with place.api.context.upload_permits.hold():
            assert await refused(b"", "text/plain", str(Caller().user_id)) == (404, "chat_not_found")
            assert await refused(b"", "text/plain") == (400, "invalid_request")
            zipped = part(large, filename="a.zip", content_type="application/zip")
            assert await refused(body(zipped)) == (415, "unsupported_file_type")
            assert await refused(body(part(large, **PNG))) == (400, "images_disabled")
            assert await refused(body(part(large, **SHEET))) == (413, "file_too_large")
            assert await refused(body(part(b"xx", **SHEET))) == (503, "upload_concurrency_limit")
        assert await refused(body(part(b"xx", **SHEET))) == (429, "quota_exceeded")
        assert await refused(body(part(b"x", **SHEET))) == (422, "validation_error")
        await uploaded(place.client, place.chat_id, b"x")
        assert await refused(body(part(b"x"))) == (429, "quota_exceeded")


async def test_one_permit_too_many_is_told_to_come_again(open_place: OpenPlace) -> None:
    """Those that are at work hold their permit until their client has sent all; then it is free again."""
    async with open_place(rag={"max_concurrent_uploads": 2}) as place:
        go_on = asyncio.Event()

        async def slow() -> AsyncIterator[bytes]:
            yield part(b"begin")[:-2]
            await go_on.wait()
            yield b"\r\n" + body()

        # The transport of the tests gathers nothing: the API reads as this generator yields.
        running = [asyncio.ensure_future(send_body(place.client, place.chat_id, slow())) for _ in range(2)]
        await wait_until(lambda: place.api.context.upload_permits._free == 0)
        refused = await send_file(place.client, place.chat_id)
        assert_problem(refused, 503, "upload_concurrency_limit")
        assert refused.headers["Retry-After"] == "5"
        go_on.set()
        assert {answer.status_code for answer in await asyncio.gather(*running)} == {201}
        await uploaded(place.client, place.chat_id)
        assert place.metric("attachment_upload_total", kind="document", result="concurrency_limit") == 1


async def test_a_day_s_uploads_are_limited_by_user(open_place: OpenPlace) -> None:
    async with open_place(rag={"max_upload_bytes_per_user_per_day": 1_000}) as place:
        first = await uploaded(place.client, place.chat_id, b"x" * 600)
        refused = assert_problem(await send_file(place.client, place.chat_id, b"x" * 401), 429, "quota_exceeded")
        assert refused["quota_scope"] == "uploads"
        # What is deleted was uploaded all the same.
        await place.client.delete(attachments_path(place.chat_id, first["id"]))
        assert_problem(await send_file(place.client, place.chat_id, b"x" * 401), 429, "quota_exceeded")
        await uploaded(place.client, place.chat_id, b"x" * 400)
        body_without_length = chunked(body(part(b"x")))
        assert_problem(await send_body(place.client, place.chat_id, body_without_length), 429, "quota_exceeded")
        async with place.api.context.sessions.begin() as session:
            midnight = func.date_trunc("day", func.now(), "UTC")
            await session.execute(update(Attachment).values(created_at=midnight - timedelta(microseconds=1)))
        await uploaded(place.client, place.chat_id, b"x" * 1_000)


FAILURES: tuple[dict[str, Any], ...] = (
    {"http_status": 500},
    {"http_status": 401},
    {"terminal": "reset"},
    {"http_status": 200, "body": {"object": "file"}},
)
SILENCE: dict[str, Any] = {"delay_ms": 60_000}


@pytest.mark.parametrize("model", [STANDARD, PREMIUM])
@pytest.mark.parametrize(
    ("scripts", "timeouts", "status", "code"),
    [(FAILURES, TIMEOUTS, 502, "provider_error"), ((SILENCE,), TIMEOUTS | {"total": 1}, 504, "provider_timeout")],
    ids=["failures", "silence"],
)
async def test_a_provider_that_fails_leaves_a_failed_row(
    open_place: OpenPlace,
    model: str,
    scripts: Sequence[dict[str, Any]],
    timeouts: dict[str, int],
    status: int,
    code: str,
) -> None:
    async with open_place(model=model, timeouts=timeouts) as place:
        for number, script in enumerate(scripts, start=1):
            await place.provider.queue({"storage": "files"} | script)
            problem = assert_problem(await send_file(place.client, place.chat_id), status, code)
            assert "file-" not in problem["detail"]
            row = (await place.rows())[-1]
            assert (row.status, row.error_code, row.provider_file_id) == ("failed", "upload_failed", None), script
            assert await place.provider.files() == [], script
            assert place.metric("attachment_upload_total", kind="document", result="provider_error") == number
            shown = (await place.client.get(attachments_path(place.chat_id, str(row.id)))).json()
            assert (shown["status"], shown["error_code"]) == ("failed", "upload_failed")
        assert len(await place.rows()) == len(scripts)


async def test_hostile_names_are_stored_harmless(place: Place) -> None:
    for given, stored in (
        ("../../etc/passwd.txt", "passwd.txt"),
        ("C:\\\\x\\\\..\\\\y.txt", "y.txt"),
        ("a\tb\x7f.txt", "ab.txt"),
        ("n" * 4_000 + ".txt", "n" * 251 + ".txt"),
        ("...", "upload"),
    ):
        answer = await send_body(place.client, place.chat_id, body(part(filename=given)))
        assert answer.status_code == 201, answer.text
        assert answer.json()["filename"] == stored
    names = {file["filename"] for file in await place.provider.files()}
    assert names == {f"{place.chat_id}_{row.id}.txt" for row in await place.rows()}


async def test_a_zip_that_says_it_is_a_pdf_is_taken_for_what_it_says(place: Place) -> None:
    shown = await uploaded(place.client, place.chat_id, b"PK\x03\x04", **PDF)
    assert shown["content_type"] == "application/pdf"


async def test_the_files_of_a_chat_stay_with_one_provider(place: Place) -> None:
    """Its store is where its documents are; what is not searched may be elsewhere."""
    await uploaded(place.client, place.chat_id)
    store = ChatVectorStore(
        id=new_uuid7(),
        tenant_id=place.user.tenant_id,
        chat_id=UUID(place.chat_id),
        provider="another",
        created_at=SystemClock().now(),
    )
    async with place.api.context.sessions.begin() as session:
        session.add(store)
    assert_problem(await send_file(place.client, place.chat_id), 409, "provider_mismatch")
    await uploaded(place.client, place.chat_id, image(), **PNG)


async def test_a_chat_whose_model_is_gone_goes_on_with_the_default_one(place: Place) -> None:
    async with place.api.context.sessions.begin() as session:
        await session.execute(update(Chat).values(model="gone"))
    await uploaded(place.client, place.chat_id, b"x" * 25_600 * 1024)
    assert (await place.row()).storage_backend == "azure"
    assert_problem(await send_file(place.client, place.chat_id, b"x", **SHEET), 422, "validation_error")


async def test_without_a_queue_a_document_is_left_to_the_workers(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*_: object) -> bool:
        raise RedisConnectionError

    monkeypatch.setattr(type(place.api.context.queue), "enqueue", away)
    assert (await uploaded(place.client, place.chat_id))["status"] == "pending"
    assert (await place.row()).status == "uploaded"


async def test_without_a_database_a_row_is_left_to_the_workers(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client is told to come again; whoever finds the row finds the file by its name."""
    transactions = []

    async def run(sessions: Sessions, work: Callable[[AsyncSession], Awaitable[T]]) -> T:
        transactions.append(work)
        if len(transactions) > 1:
            raise ConnectionRefusedError
        return await run_transaction(sessions, work)

    monkeypatch.setattr(rows, "run_transaction", run)
    assert_problem(await send_file(place.client, place.chat_id), 503, "service_unavailable")
    row, (file,) = await place.row(), await place.provider.files()
    assert (row.status, row.provider_file_id) == ("pending", None)
    assert file["filename"] == f"{place.chat_id}_{row.id}.txt"
    assert len(transactions) == 3

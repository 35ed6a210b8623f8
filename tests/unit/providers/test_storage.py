"""Files and vector stores over HTTP: what is sent in either style, and what is made of each answer."""

from __future__ import annotations

import asyncio
import gc
import io
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import psutil
import pytest

from api.demo_provider.main import serving as serving_provider
from shared.metrics import Metrics
from shared.model_catalog.catalog import ProviderConfig, TenantOverride
from shared.providers.client import ProviderClients
from shared.providers.storage import MAX_ID_CHARS, ProviderStorage, ProviderStorages, StorageError, storage_root
from tests.unit.providers.factories import TENANT, USER, a_config
from tests.unit.providers.servers import Exchange, Script, Server, serving

ATTACHMENT = UUID("00000000-0000-4000-8000-00000000000d")
AZURE: dict[str, Any] = {"storage_kind": "azure", "api_version": "2025-01-01", "api_path": "/openai/v1/responses"}
STYLES = pytest.mark.parametrize("style", [{}, AZURE], ids=["openai", "azure"])

Call = Callable[[ProviderStorage], Awaitable[object]]


async def upload(storage: ProviderStorage) -> str:
    return await storage.upload_file(
        io.BytesIO(b"hello"), filename='a "b".txt', content_type="text/plain", purpose="assistants"
    )


async def listed(storage: ProviderStorage) -> list[str]:
    return [file.id async for file in storage.list_files(purpose="assistants")]


CALLS: dict[str, tuple[Call, str, str, Any]] = {
    "file_delete": (lambda storage: storage.delete_file("file-1"), "DELETE", "/files/file-1", None),
    "vector_store_create": (lambda storage: storage.create_vector_store(), "POST", "/vector_stores", {}),
    "vector_store_delete": (lambda storage: storage.delete_vector_store("vs_1"), "DELETE", "/vector_stores/vs_1", None),
    "vector_store_add": (
        lambda storage: storage.add_file("vs_1", "file-1", attachment_id=ATTACHMENT),
        "POST",
        "/vector_stores/vs_1/files",
        {"file_id": "file-1", "attributes": {"attachment_id": str(ATTACHMENT)}},
    ),
    "vector_store_file": (
        lambda storage: storage.file_is_in_progress("vs_1", "file-1"),
        "GET",
        "/vector_stores/vs_1/files/file-1",
        None,
    ),
    "vector_store_remove": (
        lambda storage: storage.remove_file("vs_1", "file-1"),
        "DELETE",
        "/vector_stores/vs_1/files/file-1",
        None,
    ),
}
DELETIONS = ("file_delete", "vector_store_delete", "vector_store_remove")


def answering(*bodies: Any, status: int = 200) -> Script:
    """Each body once, as JSON unless it is bytes, and the last one again and again."""
    left = list(bodies)

    async def answer(exchange: Exchange) -> None:
        body = left.pop(0) if len(left) > 1 else left[0]
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        await exchange.respond(status, raw, Content_Type="application/json")

    return answer


@asynccontextmanager
async def storages_of(config: ProviderConfig, metrics: Metrics | None = None) -> AsyncIterator[ProviderStorages]:
    clients = ProviderClients({"main": config})
    try:
        yield ProviderStorages(clients, metrics or Metrics("test"))
    finally:
        await clients.aclose()


@asynccontextmanager
async def a_storage(
    script: Script, *, metrics: Metrics | None = None, **config: Any
) -> AsyncIterator[tuple[ProviderStorage, Server]]:
    async with serving(script) as server, storages_of(a_config(server.port, **config), metrics) as storages:
        yield storages.of_provider("main", TENANT), server


async def failure_of(script: Script, call: Call = upload, **config: Any) -> StorageError:
    async with a_storage(script, **config) as (storage, _):
        with pytest.raises(StorageError) as caught:
            await call(storage)
    return caught.value


@pytest.mark.parametrize("endpoint", CALLS)
@STYLES
async def test_what_a_call_sends(endpoint: str, style: dict[str, Any]) -> None:
    call, method, path, body = CALLS[endpoint]
    metrics = Metrics("test")
    async with a_storage(answering({"id": "vs_1"}), metrics=metrics, **style) as (storage, server):
        await call(storage)
    [exchange] = server.exchanges
    expected = f"/openai{path}?api-version=2025-01-01" if style else f"/v1{path}"
    assert (exchange.method, exchange.target) == (method, expected)
    assert (json.loads(exchange.body) if exchange.body else None) == body
    labels = {"provider": "main", "endpoint": endpoint}
    assert metrics.registry.get_sample_value("test_provider_requests_total", labels) == 1
    assert metrics.registry.get_sample_value("test_provider_latency_ms_count", labels) == 1


@STYLES
async def test_what_an_upload_sends(style: dict[str, Any]) -> None:
    async with a_storage(answering({"id": "file-1"}), **style) as (storage, server):
        assert await upload(storage) == "file-1"
    [exchange] = server.exchanges
    assert exchange.target == ("/openai/files?api-version=2025-01-01" if style else "/v1/files")
    assert exchange.headers["content-type"].startswith("multipart/form-data; boundary=")
    _, purpose, file, _ = exchange.body.split(f"--{exchange.headers['content-type'].partition('=')[2]}".encode())
    assert purpose == b'\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nassistants\r\n'
    assert b'name="file"; filename="a %22b%22.txt"\r\nContent-Type: text/plain\r\n\r\nhello\r\n' in file


@pytest.mark.parametrize(
    ("header", "prefix", "sent"), [("Authorization", "Bearer ", "Bearer very-secret"), ("api-key", "", "very-secret")]
)
async def test_a_call_proves_who_it_is_from_as_configured(
    header: str, prefix: str, sent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY", "very-secret")
    auth: dict[str, Any] = {"auth_header": header, "auth_prefix": prefix, "auth_secret": "env:KEY"}
    async with a_storage(answering({"id": "vs_1"}), **auth) as (storage, server):
        await storage.create_vector_store()
    assert server.exchanges[0].headers[header.lower()] == sent
    assert ("authorization" in server.exchanges[0].headers) == (header == "Authorization")


async def test_attributes_are_left_out_where_filters_are_not_supported() -> None:
    async with a_storage(answering({}), **AZURE, supports_file_search_filters=False) as (storage, server):
        await storage.add_file("vs_1", "file-1", attachment_id=ATTACHMENT)
    assert server.exchanges[0].json == {"file_id": "file-1"}


async def test_an_id_cannot_leave_its_path_segment() -> None:
    async with a_storage(answering({})) as (storage, server):
        await storage.delete_file("../models/x?y#z")
    assert server.exchanges[0].target == "/v1/files/..%2Fmodels%2Fx%3Fy%23z"


@pytest.mark.parametrize(
    ("config", "root"),
    [
        ({"api_path": "/v1/responses"}, "/v1"),
        ({"api_path": "/v1/chat/completions"}, "/v1"),
        ({"api_path": "/responses"}, "/v1"),
        ({"api_path": "/gateway/v1/responses"}, "/gateway/v1"),
        ({**AZURE}, "/openai"),
        ({**AZURE, "api_path": "/v1/responses"}, "/openai"),
        ({**AZURE, "api_path": "/gateway/openai/v1/responses"}, "/gateway/openai"),
        ({**AZURE, "api_path": "/openai/deployments/{model}/chat/completions?api-version=1"}, "/openai"),
        ({**AZURE, "api_path": "/openai-eu/v1/responses"}, "/openai"),
    ],
)
def test_where_storage_is(config: dict[str, Any], root: str) -> None:
    assert storage_root(a_config(**config)) == root


@pytest.mark.parametrize(("style", "purpose"), [({}, "vision"), (AZURE, "assistants")])
def test_the_purpose_of_images(style: dict[str, Any], purpose: str) -> None:
    clients = ProviderClients({"main": a_config(image_purpose="vision", **style)})
    assert ProviderStorages(clients, Metrics("test")).of_provider("main", TENANT).image_purpose == purpose


@pytest.mark.parametrize("endpoint", DELETIONS)
async def test_what_is_not_there_is_deleted(endpoint: str) -> None:
    async with a_storage(answering({"error": {"message": "gone"}}, status=404)) as (storage, _):
        await CALLS[endpoint][0](storage)


@pytest.mark.parametrize("endpoint", DELETIONS)
async def test_any_other_refusal_of_a_deletion_is_an_error(endpoint: str) -> None:
    error = await failure_of(answering({}, status=403), CALLS[endpoint][0])
    assert (error.code, error.http_status) == ("provider_error", 403)


@pytest.mark.parametrize("status", [200, 201, 202])
@pytest.mark.parametrize("body", [b"", b"thanks", b"[]", b'{"status":"completed"}', b'{"status":"new_in_2030"}'])
async def test_any_success_of_adding_a_file_is_one(status: int, body: bytes) -> None:
    async with a_storage(answering(body, status=status)) as (storage, _):
        assert not (await storage.add_file("vs_1", "file-1", attachment_id=ATTACHMENT)).is_in_progress


async def test_a_file_may_be_in_progress() -> None:
    async with a_storage(answering({"status": "in_progress"}, {"status": "in_progress"}, {"status": "failed"})) as (
        storage,
        _,
    ):
        assert (await storage.add_file("vs_1", "file-1", attachment_id=ATTACHMENT)).is_in_progress
        assert await storage.file_is_in_progress("vs_1", "file-1")
        assert not await storage.file_is_in_progress("vs_1", "file-1")


@pytest.mark.parametrize("body", [b"", b"{}", b'{"id":""}', b'{"id":5}', b"[1]", b'{"id":"%s"}' % (b"x" * 129)])
@pytest.mark.parametrize("call", [upload, CALLS["vector_store_create"][0]])
async def test_an_answer_without_an_id_is_an_error(body: bytes, call: Call) -> None:
    assert (await failure_of(answering(body), call)).code == "provider_error"
    assert MAX_ID_CHARS == 128


async def test_the_text_of_an_error_is_fit_for_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY", "very-secret")
    said = {"error": {"message": "file-abc123 of very-secret is not at https://x.example/y"}}
    auth: dict[str, Any] = {"auth_header": "api-key", "auth_secret": "env:KEY"}
    error = await failure_of(answering(said, status=400), **auth)
    assert error.message == "[provider_id] of [credential] is not at [url]"
    assert "very-secret" not in f"{error} {error.detail}"
    assert "file-abc123" in error.detail
    assert error.__cause__ is None


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "provider_error"),
        (408, "provider_timeout"),
        (429, "provider_error"),
        (500, "provider_error"),
        (504, "provider_timeout"),
    ],
)
async def test_a_refusal_by_status(status: int, code: str) -> None:
    metrics = Metrics("test")
    error = await failure_of(answering({}, status=status), metrics=metrics)
    assert (error.code, error.http_status, error.is_timeout) == (code, status, code == "provider_timeout")
    labels = {"provider": "main", "status": str(status)}
    assert metrics.registry.get_sample_value("test_provider_errors_total", labels) == 1


async def _say_nothing(exchange: Exchange) -> None:
    await exchange.closed_by_caller()


async def _begin_only(exchange: Exchange) -> None:
    await exchange.send(b'HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{"id"')
    await exchange.closed_by_caller()


@pytest.mark.parametrize("script", [_say_nothing, _begin_only])
async def test_an_answer_that_does_not_come_is_a_timeout(script: Script) -> None:
    create = CALLS["vector_store_create"][0]
    assert (await failure_of(script, create, timeouts={"first_event": 0.1})).is_timeout
    assert (await failure_of(script, upload, timeouts={"first_event": 0.001, "total": 0.2})).is_timeout


async def test_a_broken_connection_is_an_error() -> None:
    async def reset(exchange: Exchange) -> None:
        exchange.reset()

    assert (await failure_of(reset)).code == "provider_error"
    async with serving(reset) as server:
        port = server.port
    async with storages_of(a_config(port)) as storages:
        with pytest.raises(StorageError) as caught:
            await upload(storages.of_provider("main", TENANT))
    assert (caught.value.code, caught.value.message) == ("provider_error", "Provider is currently unavailable")


async def test_a_list_is_read_page_by_page() -> None:
    pages = [
        {"data": [{"id": "file-1", "filename": "a"}, {"id": "file-2"}, "noise"], "has_more": True},
        {"data": [{"id": "file-3", "filename": None}], "has_more": False},
    ]
    async with a_storage(answering(*pages), **AZURE) as (storage, server):
        found = [(file.id, file.filename) async for file in storage.list_files(purpose="assistants")]
    assert found == [("file-1", "a"), ("file-2", ""), ("file-3", "")]
    assert [exchange.target for exchange in server.exchanges] == [
        "/openai/files?api-version=2025-01-01&purpose=assistants",
        "/openai/files?api-version=2025-01-01&purpose=assistants&after=file-2",
    ]


@pytest.mark.parametrize("page", [{"data": [{"id": "file-1"}], "has_more": True}, {"data": [], "has_more": True}, []])
async def test_a_list_that_never_ends_ends(page: Any) -> None:
    """A server that does not know `after` answers the same page again."""
    async with a_storage(answering(page)) as (storage, server):
        await listed(storage)
    assert len(server.exchanges) <= 2


class WaitingFile(io.BytesIO):
    """Every read waits until the event loop has run meanwhile, and notes if it has not."""

    def __init__(self, content: bytes, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(content)
        self._loop = loop
        self.was_alone = False

    def read(self, size: int | None = -1) -> bytes:
        has_run = threading.Event()
        self._loop.call_soon_threadsafe(has_run.set)
        self.was_alone |= not has_run.wait(5)
        return super().read(size)


async def test_reading_the_file_does_not_block_the_event_loop() -> None:
    content = WaitingFile(b"x" * 300_000, asyncio.get_running_loop())
    async with a_storage(answering({"id": "file-1"})) as (storage, server):
        await storage.upload_file(content, filename="a.txt", content_type="text/plain", purpose="assistants")
    assert len(server.exchanges[0].body) > 300_000
    assert not content.was_alone


@STYLES
async def test_the_size_of_an_upload_does_not_cost_memory(style: dict[str, Any], tmp_path: Path) -> None:
    """Ten of 25 MB at once; the provider at the other end is in this process, too, and keeps nothing."""
    path = tmp_path / "large.pdf"
    path.write_bytes(b"x" * 25_000_000)
    async with (
        serving_provider(host="127.0.0.1", port=0) as url,
        storages_of(a_config(urlsplit(url).port or 0, **style)) as storages,
    ):
        storage = storages.of_provider("main", TENANT)
        await upload(storage)
        gc.collect()
        before = psutil.Process().memory_info().rss
        peak = await _peak_while(_upload_ten(storage, path))
    assert peak - before < 25_000_000


async def _upload_ten(storage: ProviderStorage, path: Path) -> None:
    async with asyncio.TaskGroup() as tasks:
        for _ in range(10):
            tasks.create_task(_upload_file(storage, path))


async def _upload_file(storage: ProviderStorage, path: Path) -> None:
    with path.open("rb") as content:
        await storage.upload_file(content, filename="x.pdf", content_type="application/pdf", purpose="assistants")


async def _peak_while(work: Awaitable[None]) -> int:
    process, task, peak = psutil.Process(), asyncio.ensure_future(work), 0
    while not task.done():
        peak = max(peak, process.memory_info().rss)
        await asyncio.sleep(0.005)
    await task
    return peak


async def test_a_backend_is_found_by_its_label() -> None:
    clients = ProviderClients({"first": a_config(1), "second": a_config(2, storage_backend="files", **AZURE)})
    storages = ProviderStorages(clients, Metrics("test"))
    assert storages.of_backend("first", TENANT) is storages.of_provider("first", USER)
    assert storages.of_backend("files", TENANT) is storages.of_provider("second", TENANT)
    assert (storages.of_backend("files", TENANT).backend, storages.of_backend("first", TENANT).backend) == (
        "files",
        "first",
    )
    for unknown in (storages.of_backend, storages.of_provider):
        with pytest.raises(StorageError):
            unknown("gone", TENANT)
    clients.replace({"third": a_config(3, storage_backend="files")})
    assert storages.of_backend("files", TENANT) is storages.of_provider("third", TENANT)
    await clients.aclose()


async def test_a_secret_that_has_gone_is_an_error_of_storage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GONE", raising=False)
    async with storages_of(a_config(auth_header="api-key", auth_secret="env:GONE")) as storages:
        with pytest.raises(StorageError, match="currently unavailable") as caught:
            storages.of_backend("main", TENANT)
    assert "env:GONE" in caught.value.detail


async def test_the_tenant_of_a_resource_decides_where_it_is() -> None:
    async with serving(answering({"id": "file-own"})) as own, serving(answering({"id": "file-all"})) as everybody:
        override = TenantOverride(host="127.0.0.1", port=own.port)
        config = a_config(everybody.port, storage_backend="files", tenant_overrides={TENANT: override})
        async with storages_of(config) as storages:
            assert await upload(storages.of_backend("files", TENANT)) == "file-own"
            assert await upload(storages.of_backend("files", USER)) == "file-all"

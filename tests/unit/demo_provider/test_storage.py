"""Files and vector stores of the scripted provider, as callers of both styles see them."""

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import psutil
import pytest

from api.demo_provider.main import serving
from tests.unit.demo_provider.driver import Provider

OPENAI = ("/v1", "")
AZURE = ("/openai", "?api-version=2025-01-01")
STYLES = pytest.mark.parametrize("style", [OPENAI, AZURE], ids=["openai", "azure"])
AN_ID = re.compile(r"(file-|vs_)(?=.*\d)[a-z0-9]{6,}")

Style = tuple[str, str]


async def call(provider: Provider, method: str, path: str, *, style: Style = OPENAI, **request: Any) -> tuple[int, Any]:
    root, query = style
    async with provider.session.request(method, f"{root}{path}{query}", **request) as response:
        return response.status, json.loads(await response.read() or b"null")


def a_form(content: Any = b"hello", *, filename: str = "notes.txt", purpose: str = "assistants") -> aiohttp.FormData:
    form = aiohttp.FormData(quote_fields=False)
    form.add_field("purpose", purpose)
    form.add_field("file", content, filename=filename, content_type="text/plain")
    return form


async def upload(provider: Provider, *, style: Style = OPENAI, **form: Any) -> str:
    status, file = await call(provider, "POST", "/files", style=style, data=a_form(**form))
    assert status == 200, file
    file_id: str = file["id"]
    return file_id


async def held(provider: Provider) -> Any:
    async with provider.session.get("/_control/storage") as response:
        return await response.json()


@STYLES
async def test_a_file_is_stored_indexed_and_removed(provider: Provider, style: Style) -> None:
    assert await held(provider) == {"files": [], "vector_stores": []}
    file_id = await upload(provider, style=style, filename="é.txt")
    _, store = await call(provider, "POST", "/vector_stores", style=style, json={})
    assert AN_ID.fullmatch(file_id)
    assert AN_ID.fullmatch(store["id"])
    body = {"file_id": file_id, "attributes": {"attachment_id": "a"}}
    status, added = await call(provider, "POST", f"/vector_stores/{store['id']}/files", style=style, json=body)
    assert (status, added["status"]) == (200, "completed")

    shown = await held(provider)
    assert [(file["id"], file["filename"], file["bytes"]) for file in shown["files"]] == [(file_id, "é.txt", 5)]
    [indexed] = shown["vector_stores"][0]["files"]
    assert (indexed["id"], indexed["attributes"]) == (file_id, {"attachment_id": "a"})

    place = f"/vector_stores/{store['id']}/files/{file_id}"
    assert (await call(provider, "GET", place, style=style))[0] == 200
    assert (await call(provider, "DELETE", place, style=style))[1]["deleted"] is True
    assert (await call(provider, "DELETE", place, style=style))[0] == 404
    for path in (f"/files/{file_id}", f"/vector_stores/{store['id']}"):
        assert (await call(provider, "DELETE", path, style=style))[1]["deleted"] is True
        assert (await call(provider, "DELETE", path, style=style))[0] == 404
    assert await held(provider) == {"files": [], "vector_stores": []}


async def test_a_deleted_file_leaves_its_vector_stores(provider: Provider) -> None:
    file_id = await upload(provider)
    _, store = await call(provider, "POST", "/vector_stores", json={})
    await call(provider, "POST", f"/vector_stores/{store['id']}/files", json={"file_id": file_id})
    await call(provider, "DELETE", f"/files/{file_id}")
    assert (await held(provider))["vector_stores"][0]["files"] == []


async def test_files_are_listed_by_purpose_and_page(provider: Provider) -> None:
    ids = [await upload(provider, filename=f"{number}.txt") for number in range(5)]
    await upload(provider, purpose="vision")
    seen: list[str] = []
    query = "?purpose=assistants&limit=2"
    while True:
        _, page = await call(provider, "GET", f"/files{query}")
        seen += [file["id"] for file in page["data"]]
        if not page["has_more"]:
            break
        query = f"?purpose=assistants&limit=2&after={page['last_id']}"
    assert seen == ids[::-1]


@pytest.mark.parametrize(
    ("style", "form", "status"),
    [
        (("/openai", ""), a_form, 404),
        (AZURE, lambda: a_form(purpose="vision"), 400),
        (OPENAI, lambda: a_form(purpose=""), 200),
        (OPENAI, dict, 400),
    ],
    ids=["azure without a version", "azure with another purpose", "any purpose", "no file"],
)
async def test_what_an_upload_must_have(provider: Provider, style: Style, form: Any, status: int) -> None:
    data = form() or aiohttp.FormData({"purpose": "assistants"}, default_to_multipart=True)
    assert (await call(provider, "POST", "/files", style=style, data=data))[0] == status


async def test_an_upload_is_recorded_without_its_content(provider: Provider) -> None:
    await upload(provider, content=b"x" * 100_000)
    record = await provider.record()
    file = {"filename": "notes.txt", "content_type": "text/plain", "bytes": 100_000}
    assert (record["method"], record["body"]) == ("POST", {"purpose": "assistants", "file": file})


async def test_the_size_of_an_upload_does_not_cost_memory(provider: Provider) -> None:
    """Both ends are this process, so neither holds the 64 MB."""

    async def content() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield b"x" * 1_000_000

    process, stop, peak = psutil.Process(), asyncio.Event(), 0
    await upload(provider)
    before = process.memory_info().rss

    async def watch() -> None:
        nonlocal peak
        while not stop.is_set():
            peak = max(peak, process.memory_info().rss)
            await asyncio.sleep(0.002)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(watch())
        await upload(provider, content=content())
        stop.set()
    assert peak - before < 16_000_000
    assert (await held(provider))["files"][-1]["bytes"] == 64_000_000


async def test_every_third_call_fails_for_as_long_as_it_is_told(provider: Provider) -> None:
    await provider.queue({"storage": "any", "every": 3, "times": 2, "http_status": 503})
    statuses = [(await call(provider, "POST", "/vector_stores", json={}))[0] for _ in range(9)]
    assert statuses == [200, 200, 503, 200, 200, 503, 200, 200, 200]
    assert len((await held(provider))["vector_stores"]) == 7


async def test_a_script_serves_its_call_only_and_a_null_number_of_times_is_for_ever(provider: Provider) -> None:
    await provider.queue({"storage": "file_delete", "times": None, "http_status": 500, "body": {"message": "no"}})
    file_id = await upload(provider)
    for _ in range(3):
        assert await call(provider, "DELETE", f"/files/{file_id}") == (500, {"message": "no"})
    async with provider.session.delete("/_control/scripts") as response:
        assert response.status == 204
    assert (await call(provider, "DELETE", f"/files/{file_id}"))[0] == 200


async def test_generations_are_not_served_by_scripts_of_storage(provider: Provider) -> None:
    await provider.queue({"storage": "any", "http_status": 500}, {"text": "hello"})
    async with provider.ask("hi") as response:
        assert "hello" in await response.text()
    assert (await call(provider, "GET", "/files"))[0] == 500


@pytest.mark.parametrize("failure", [{"http_status": 500}, {"terminal": "reset"}], ids=["500", "reset"])
async def test_a_call_may_have_its_effect_though_it_fails(provider: Provider, failure: dict[str, Any]) -> None:
    for has_effect in (False, True):
        await provider.queue({"storage": "files", "has_effect": has_effect, **failure})
        with contextlib.suppress(aiohttp.ClientError):
            assert (await call(provider, "POST", "/files", data=a_form()))[0] == 500
        assert len((await held(provider))["files"]) == int(has_effect)
        assert (await provider.record())["finished_at"] is not None


async def test_an_answer_may_be_made_odd(provider: Provider) -> None:
    await provider.queue({"storage": "vector_store_create", "answer": {"status": "in_progress"}})
    assert (await call(provider, "POST", "/vector_stores", json={}))[1]["status"] == "in_progress"


async def test_a_caller_that_leaves_during_the_delay_gets_nothing_done() -> None:
    async with (
        serving(host="127.0.0.1", port=0) as url,
        aiohttp.ClientSession(url, timeout=aiohttp.ClientTimeout(total=10)) as session,
    ):
        provider = Provider(url=url, session=session)
        await provider.queue({"storage": "files", "delay_ms": 60_000})
        with pytest.raises(TimeoutError):
            await call(provider, "POST", "/files", data=a_form(), timeout=aiohttp.ClientTimeout(total=0.2))
        assert (await provider.record(lambda record: record["closed_by_caller_at"]))["finished_at"] is None
        assert (await held(provider))["files"] == []


@pytest.mark.parametrize(
    "script", [{"storage": "fails"}, {"storage": "files", "text": "x"}, {"storage": "files", "body": "x"}]
)
async def test_an_invalid_script_of_storage_is_refused(provider: Provider, script: dict[str, Any]) -> None:
    async with provider.session.post("/_control/scripts", json=[script]) as response:
        assert response.status == 400
        assert "script 0" in (await response.json())["error"]["message"]

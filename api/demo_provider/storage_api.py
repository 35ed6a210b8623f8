"""The Files and Vector Stores APIs, in OpenAI's form and in Azure's.

OpenAI's are below `/v1` (Azure serves them below `/openai/v1`, too), Azure's below `/openai` with an `api-version` in
the query and files only for assistants. An upload is read piece by piece and only measured, so that its size does not
matter; its record shows what came in the form instead of the form.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import orjson
from aiohttp import BodyPartReader, web

from api.demo_provider.journal import RequestRecord
from api.demo_provider.playback import http_answer, reset_connection, send_whole
from api.demo_provider.state import JOURNAL, STORAGE, STORAGE_SCRIPTS
from api.demo_provider.storage import MAX_PAGE, HeldFile, page_of
from api.demo_provider.storage_script import StorageCall, StorageScript
from api.demo_provider.wire import ApiError, dump_json, json_response

AZURE_ROOT = "/openai"
ROOTS = ("/v1", "/openai/v1", AZURE_ROOT)

_AZURE_PURPOSE = "assistants"
_MAX_FIELD_BYTES = 64 * 1024

_Effect = Callable[[web.Request, dict[str, Any]], dict[str, Any]]
"""What a call does, given the members of its body, and the object that it answers."""


def add_storage_routes(app: web.Application) -> None:
    """Mount both APIs in both styles."""
    for root in ROOTS:
        add = app.router.add_route
        for method, path, call, effect in _CALLS:
            add(method, f"{root}{path}", _handler(call, effect))


def _create_file(request: web.Request, form: dict[str, Any]) -> dict[str, Any]:
    file, purpose = form.get("file"), form.get("purpose")
    if not isinstance(file, dict):
        raise ApiError("Missing required parameter: 'file'.", code="missing_required_parameter", param="file")
    if not isinstance(purpose, str) or (_is_azure(request) and purpose != _AZURE_PURPOSE):
        raise ApiError(f"Invalid value for purpose: {purpose!r}.", code="invalid_value", param="purpose")
    held = HeldFile(filename=file["filename"], purpose=purpose, size=file["bytes"])
    return request.app[STORAGE].add_file(held).as_json()


def _show_file(request: web.Request, _: dict[str, Any]) -> dict[str, Any]:
    return request.app[STORAGE].file(request.match_info["file"]).as_json()


def _list_files(request: web.Request, _: dict[str, Any]) -> dict[str, Any]:
    files = request.app[STORAGE].files(request.query.get("purpose"))
    return page_of(files, after=request.query.get("after"), limit=_limit(request, default=MAX_PAGE))


def _delete_file(request: web.Request, _: dict[str, Any]) -> dict[str, Any]:
    file_id = request.match_info["file"]
    request.app[STORAGE].delete_file(file_id)
    return _deleted(file_id, "file")


def _create_store(request: web.Request, body: dict[str, Any]) -> dict[str, Any]:
    name = body.get("name")
    return request.app[STORAGE].create_store(name if isinstance(name, str) else None).as_json()


def _show_store(request: web.Request, _: dict[str, Any]) -> dict[str, Any]:
    return request.app[STORAGE].store(request.match_info["store"]).as_json()


def _list_stores(request: web.Request, _: dict[str, Any]) -> dict[str, Any]:
    stores = request.app[STORAGE].stores()
    return page_of(stores, after=request.query.get("after"), limit=_limit(request, default=20))


def _delete_store(request: web.Request, _: dict[str, Any]) -> dict[str, Any]:
    store_id = request.match_info["store"]
    request.app[STORAGE].delete_store(store_id)
    return _deleted(store_id, "vector_store")


def _index_file(request: web.Request, body: dict[str, Any]) -> dict[str, Any]:
    file_id, attributes = body.get("file_id"), body.get("attributes")
    if not isinstance(file_id, str):
        raise ApiError("Missing required parameter: 'file_id'.", code="missing_required_parameter", param="file_id")
    shown = attributes if isinstance(attributes, dict) else {}
    return request.app[STORAGE].index_file(request.match_info["store"], file_id, shown).as_json()


def _show_indexed_file(request: web.Request, _: dict[str, Any]) -> dict[str, Any]:
    return request.app[STORAGE].indexed_file(request.match_info["store"], request.match_info["file"]).as_json()


def _list_indexed_files(request: web.Request, _: dict[str, Any]) -> dict[str, Any]:
    files = [*request.app[STORAGE].store(request.match_info["store"]).files.values()]
    return page_of(files, after=request.query.get("after"), limit=_limit(request, default=20))


def _remove_indexed_file(request: web.Request, _: dict[str, Any]) -> dict[str, Any]:
    file_id = request.match_info["file"]
    request.app[STORAGE].remove_indexed_file(request.match_info["store"], file_id)
    return _deleted(file_id, "vector_store.file")


_CALLS: tuple[tuple[str, str, StorageCall, _Effect], ...] = (
    ("POST", "/files", "files", _create_file),
    ("GET", "/files", "file_list", _list_files),
    ("GET", "/files/{file}", "file_get", _show_file),
    ("DELETE", "/files/{file}", "file_delete", _delete_file),
    ("POST", "/vector_stores", "vector_store_create", _create_store),
    ("GET", "/vector_stores", "vector_store_list", _list_stores),
    ("GET", "/vector_stores/{store}", "vector_store_get", _show_store),
    ("DELETE", "/vector_stores/{store}", "vector_store_delete", _delete_store),
    ("POST", "/vector_stores/{store}/files", "vector_store_add", _index_file),
    ("GET", "/vector_stores/{store}/files", "vector_store_files", _list_indexed_files),
    ("GET", "/vector_stores/{store}/files/{file}", "vector_store_file", _show_indexed_file),
    ("DELETE", "/vector_stores/{store}/files/{file}", "vector_store_remove", _remove_indexed_file),
)


def _handler(call: StorageCall, effect: _Effect) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handle(request: web.Request) -> web.StreamResponse:
        received_at = time.time()
        raw = await (_read_form(request) if call == "files" else request.read())
        record = request.app[JOURNAL].open(request, raw, received_at=received_at)
        with _noting_departure(request, record):
            script = request.app[STORAGE_SCRIPTS].take(call)
            try:
                response = await _answer(request, raw, effect, script)
            except ApiError as error:
                response = error.response()
            if script is not None and script.terminal == "reset":
                record.finish()
                await reset_connection(request)
                return response
            await send_whole(request, response, record)
            return response

    return handle


async def _answer(request: web.Request, raw: bytes, effect: _Effect, script: StorageScript | None) -> web.Response:
    if script is None:
        return json_response(_perform(request, raw, effect))
    await asyncio.sleep(script.delay_ms / 1000)
    if not script.fails:
        return json_response({**_perform(request, raw, effect), **script.answer})
    if script.has_effect:
        _perform(request, raw, effect)
    return http_answer(script.http_status or 500, script.body)


def _perform(request: web.Request, raw: bytes, effect: _Effect) -> dict[str, Any]:
    if _is_azure(request) and not request.query.get("api-version"):
        raise ApiError("Resource not found: api-version is missing.", status=404, code="404")
    return effect(request, _members(raw))


async def _read_form(request: web.Request) -> bytes:
    """The fields of a multipart form as JSON; of a file its name, type and size.

    Raises:
        ApiError: it is none.
    """
    fields: dict[str, Any] = {}
    try:
        async for part in _parts(request):
            if part.filename is None:
                fields[part.name or ""] = (await part.read_chunk(_MAX_FIELD_BYTES)).decode("utf-8", "replace")
            else:
                size = await _measure(part)
                kind = part.headers.get("Content-Type")
                fields[part.name or ""] = {"filename": part.filename, "content_type": kind, "bytes": size}
    except (ValueError, AssertionError) as error:
        raise ApiError(f"The body is not a multipart form: {error}", code="invalid_multipart") from None
    return dump_json(fields)


async def _parts(request: web.Request) -> AsyncIterator[BodyPartReader]:
    reader = await request.multipart()
    while (part := await reader.next()) is not None:
        if isinstance(part, BodyPartReader):
            yield part


async def _measure(part: BodyPartReader) -> int:
    size = 0
    while chunk := await part.read_chunk(256 * 1024):
        size += len(chunk)
    return size


@contextlib.contextmanager
def _noting_departure(request: web.Request, record: RequestRecord) -> Any:
    """Note in the record that the caller left before its answer."""
    try:
        yield
    except asyncio.CancelledError:
        if request.transport is None or request.transport.is_closing():
            record.close()
        raise
    except ConnectionError:
        record.close()
        raise


def _members(raw: bytes) -> dict[str, Any]:
    if not raw:
        return {}
    try:
        value = orjson.loads(raw)
    except ValueError as error:
        raise ApiError(f"The body is not valid JSON: {error}", code="invalid_json") from None
    if not isinstance(value, dict):
        raise ApiError("The body must be a JSON object.", code="invalid_json")
    return value


def _limit(request: web.Request, *, default: int) -> int:
    text = request.query.get("limit", str(default))
    if not text.isdecimal() or not 1 <= int(text) <= MAX_PAGE:
        raise ApiError(f"Invalid limit: {text!r}.", code="invalid_value", param="limit")
    return int(text)


def _deleted(held_id: str, kind: str) -> dict[str, Any]:
    return {"id": held_id, "object": f"{kind}.deleted", "deleted": True}


def _is_azure(request: web.Request) -> bool:
    return request.path.startswith(f"{AZURE_ROOT}/") and not request.path.startswith("/openai/v1/")

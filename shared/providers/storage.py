"""Files and vector stores at a provider.

A call is told by its status: any 2xx is success, a 404 on a deletion too, and of an answer only `id` is relied on,
besides the hints that a file is still being indexed and that a list goes on. Nothing is retried here; who calls again
knows why. Time limits: `connect`, then `first_event` for an answer to begin and end, `total` for an upload.

    openai   {base}/files, {base}/vector_stores            e.g. /v1/files
    azure    {base}/openai/files?api-version=…             one root, whatever `api_path` says behind it
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Final, Literal
from urllib.parse import quote
from uuid import UUID

import httpx2
import openai

from shared.metrics import Metrics
from shared.model_catalog.catalog import ProviderConfig
from shared.providers.answers import MAX_ANSWER_BYTES, WHOLE, beginning
from shared.providers.client import ApiPath, ProviderClient, ProviderClients, origin_of
from shared.providers.failures import (
    BROKEN,
    UNAVAILABLE,
    Failure,
    decode,
    refused,
    unreachable,
    unreadable,
    without_secret,
)

MAX_ID_CHARS: Final = 128
"""What the columns hold."""
IN_PROGRESS: Final = "in_progress"
OPENAI_ROOT: Final = "/v1"
AZURE_ROOT: Final = "/openai"
AZURE_PURPOSE: Final = "assistants"
"""Azure takes no other."""
_UNTIL_AZURE_ROOT = re.compile(r".*?(?=/openai(?:/|$))")

Endpoint = Literal[
    "files",
    "file_list",
    "file_delete",
    "vector_store_create",
    "vector_store_delete",
    "vector_store_add",
    "vector_store_file",
    "vector_store_remove",
]
"""What metrics call the calls."""
StorageErrorCode = Literal["provider_error", "provider_timeout"]


class StorageError(Exception):
    """A call failed, and whether it had an effect is unknown unless `http_status` says that it was refused.

    Attributes:
        message: fit for clients.
        detail: what the provider really said, without credentials; for operators.
        http_status: of the refusal, if there was an answer.
    """

    def __init__(self, failure: Failure) -> None:
        super().__init__(f"{failure.code}: {failure.message}")
        self.message = failure.message
        self.detail = failure.detail
        self.http_status = failure.http_status
        self.code: StorageErrorCode = "provider_timeout" if failure.code == "provider_timeout" else "provider_error"

    @property
    def is_timeout(self) -> bool:
        return self.code == "provider_timeout"


@dataclass(frozen=True, slots=True)
class AddedFile:
    """A file in a vector store. Only `in_progress` is a reason to wait; every other status counts as done."""

    is_in_progress: bool


@dataclass(frozen=True, slots=True)
class StoredFile:
    id: str
    filename: str
    """Empty if the provider does not say."""


class ProviderStorage:
    """The storage of one provider as one tenant reaches it. Every method raises StorageError; any number at a time."""

    def __init__(self, client: ProviderClient, *, provider_id: str, metrics: Metrics) -> None:
        self._client = client
        self._provider_id = provider_id
        self._metrics = metrics
        self._root = f"{origin_of(client.config)}{storage_root(client.config)}"
        self.backend = backend_of(provider_id, client.config)
        """What attachments and vector stores are labelled with."""

    @property
    def image_purpose(self) -> str:
        return AZURE_PURPOSE if self._client.config.storage_kind == "azure" else self._client.config.image_purpose

    async def upload_file(self, content: BinaryIO, *, filename: str, content_type: str, purpose: str) -> str:
        """Send the whole of `content` and return the provider's id of the file. Memory does not grow with its size."""
        answer = await self._call(
            "files",
            "POST",
            "/files",
            body={"purpose": purpose},
            files={"file": (filename, content, content_type)},
            headers={**WHOLE, "Content-Type": "multipart/form-data"},
            within=self._client.timeouts.total,
        )
        return self._id_in(answer)

    async def delete_file(self, file_id: str) -> None:
        await self._delete("file_delete", f"/files/{_segment(file_id)}")

    async def list_files(self, *, purpose: str) -> AsyncIterator[StoredFile]:
        """Every file of that purpose, page by page."""
        query = {"purpose": purpose}
        while True:
            page = _object_in(await self._call("file_list", "GET", "/files", query=query))
            files = _files_in(page)
            for file in files:
                yield file
            if page.get("has_more") is not True or not files or files[-1].id == query.get("after"):
                return
            query["after"] = files[-1].id

    async def create_vector_store(self) -> str:
        return self._id_in(await self._call("vector_store_create", "POST", "/vector_stores", body={}))

    async def add_file(self, vector_store_id: str, file_id: str, *, attachment_id: UUID) -> AddedFile:
        """Have the file indexed in the store; adding it again is harmless."""
        body: dict[str, Any] = {"file_id": file_id}
        if self._client.config.supports_file_search_filters:
            body["attributes"] = {"attachment_id": str(attachment_id)}
        path = f"/vector_stores/{_segment(vector_store_id)}/files"
        return _added_in(await self._call("vector_store_add", "POST", path, body=body))

    async def file_is_in_progress(self, vector_store_id: str, file_id: str) -> bool:
        path = f"/vector_stores/{_segment(vector_store_id)}/files/{_segment(file_id)}"
        return _added_in(await self._call("vector_store_file", "GET", path)).is_in_progress

    async def remove_file(self, vector_store_id: str, file_id: str) -> None:
        """Take the file out of the store; the file itself stays."""
        path = f"/vector_stores/{_segment(vector_store_id)}/files/{_segment(file_id)}"
        await self._delete("vector_store_remove", path)

    async def delete_vector_store(self, vector_store_id: str) -> None:
        await self._delete("vector_store_delete", f"/vector_stores/{_segment(vector_store_id)}")

    async def _delete(self, endpoint: Endpoint, path: str) -> None:
        try:
            await self._call(endpoint, "DELETE", path)
        except StorageError as error:
            if error.http_status != httpx2.codes.NOT_FOUND:
                raise

    async def _call(
        self,
        endpoint: Endpoint,
        method: Literal["GET", "POST", "DELETE"],
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        within: float | None = None,
        headers: Mapping[str, str] = WHOLE,
        **request: Any,
    ) -> bytes:
        """The body of a 2xx answer."""
        url = f"{self._root}{path}"
        config = self._client.config
        version = {"api-version": config.api_version or ""} if config.storage_kind == "azure" else {}
        options = {"headers": headers, "params": {**version, **(query or {})}}
        send: Mapping[str, Callable[..., Awaitable[httpx2.Response]]] = {
            "GET": self._client.openai.get,
            "POST": self._client.openai.post,
            "DELETE": self._client.openai.delete,
        }
        labels = {"provider": self._provider_id, "endpoint": endpoint}
        self._metrics.provider_requests.labels(**labels).inc()
        began = time.monotonic()
        try:
            async with asyncio.timeout(within or config.timeouts.first_event):
                response = await send[method](url, cast_to=httpx2.Response, options=options, **request)
                try:
                    answer = await beginning(response, MAX_ANSWER_BYTES)
                finally:
                    await response.aclose()
        except openai.APIStatusError as error:
            raise self._failed(refused(error.response.content, error.status_code)) from None  # it repeats the texts
        except BROKEN as error:
            raise self._failed(unreachable(error)) from None
        self._metrics.provider_latency_ms.labels(**labels).observe((time.monotonic() - began) * 1000)
        return answer

    def _failed(self, failure: Failure) -> StorageError:
        self._metrics.provider_errors.labels(provider=self._provider_id, status=failure.status_label).inc()
        return StorageError(without_secret(failure, self._client.secret))

    def _id_in(self, answer: bytes) -> str:
        found = _object_in(answer).get("id")
        if isinstance(found, str) and 0 < len(found) <= MAX_ID_CHARS:
            return found
        raise self._failed(unreadable(answer))


class ProviderStorages:
    """Finds the storage of a provider for a tenant. Hot-reloads with the clients it is built on, and closes nothing."""

    def __init__(self, clients: ProviderClients, metrics: Metrics) -> None:
        self._clients = clients
        self._metrics = metrics

    def of_provider(self, provider_id: str, tenant_id: UUID) -> ProviderStorage:
        """
        Raises:
            StorageError: the catalog of this process does not know the provider.
            ConfigurationError: its secret has gone since start-up.
        """
        if provider_id not in self._clients.providers:
            raise StorageError(Failure("provider_error", UNAVAILABLE, f"unknown provider {provider_id}"))
        client = self._clients.get(provider_id, tenant_id)
        return ProviderStorage(client, provider_id=provider_id, metrics=self._metrics)

    def of_backend(self, storage_backend: str, tenant_id: UUID) -> ProviderStorage:
        """The storage that a stored file or vector store is labelled with.

        Raises:
            StorageError: the catalog of this process has no provider with that label.
            ConfigurationError: its secret has gone since start-up.
        """
        for provider_id, config in self._clients.providers.items():
            if backend_of(provider_id, config) == storage_backend:
                return self.of_provider(provider_id, tenant_id)
        raise StorageError(Failure("provider_error", UNAVAILABLE, f"unknown storage backend {storage_backend}"))


def backend_of(provider_id: str, config: ProviderConfig) -> str:
    """The label of what is stored there: several providers may share one."""
    return config.storage_backend or provider_id


def storage_root(config: ProviderConfig) -> str:
    """The path before `/files` and `/vector_stores`. What a gateway puts before the provider's own paths is kept."""
    base = ApiPath.split(config.api_path).base
    if config.storage_kind == "openai":
        return base if base.endswith(OPENAI_ROOT) else OPENAI_ROOT
    before = _UNTIL_AZURE_ROOT.match(base)
    return f"{before[0] if before else ''}{AZURE_ROOT}"


def _segment(provider_given_id: str) -> str:
    return quote(provider_given_id, safe="")


def _object_in(answer: bytes) -> Mapping[str, Any]:
    """The object that was answered, empty if it was something else."""
    try:
        value = decode(answer)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _added_in(answer: bytes) -> AddedFile:
    return AddedFile(is_in_progress=_object_in(answer).get("status") == IN_PROGRESS)


def _files_in(page: Mapping[str, Any]) -> list[StoredFile]:
    data = page.get("data")
    found = [item for item in data if isinstance(item, dict)] if isinstance(data, list) else []
    return [
        StoredFile(item["id"], name if isinstance(name := item.get("filename"), str) else "")
        for item in found
        if isinstance(item.get("id"), str)
    ]

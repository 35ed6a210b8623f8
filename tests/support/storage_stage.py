"""Chats with uploaded files: rows in a real database, and the files at a scripted provider that runs in the test."""

from __future__ import annotations

import io
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal
from urllib.parse import urlsplit
from uuid import UUID

import aiohttp
from sqlalchemy import select, update

from api.demo_provider.main import serving
from shared.attachments.tables import Attachment, ChatVectorStore
from shared.chats.tables import Chat
from shared.clock import SystemClock
from shared.db.engine import Sessions
from shared.ids import new_uuid4, new_uuid7
from shared.metrics import Metrics
from shared.model_catalog.catalog import ProviderConfig
from shared.providers.client import ProviderClients
from shared.providers.storage import DOCUMENT_PURPOSE, ProviderStorage, ProviderStorages
from shared.queue.jobs import IndexAttachment
from worker.attachments.failed import FailedAttachments
from worker.attachments.index import Indexer
from worker.cleanup.files import FileCleanup
from worker.cleanup.removal import Removal

Style = Literal["openai", "azure"]
STYLES: Sequence[Style] = ("openai", "azure")
BACKENDS = {"openai": "openai", "azure": "azure"}
"""How the providers of either style label what they store."""


@dataclass
class StorageStage:
    """One scripted provider, reached as two: `openai` and `azure`, who hold the same files."""

    sessions: Sessions
    provider: aiohttp.ClientSession
    port: int
    """Of the provider."""
    storages: ProviderStorages
    metrics: Metrics
    tenant_id: UUID = field(default_factory=new_uuid4)
    user_id: UUID = field(default_factory=new_uuid4)

    def storage(self, style: Style = "openai") -> ProviderStorage:
        return self.storages.of_provider(style, self.tenant_id)

    @property
    def failed(self) -> FailedAttachments:
        removal = Removal(self.storages, self.metrics)
        return FailedAttachments(self.sessions, FileCleanup(self.sessions, removal, self.metrics, max_attempts=5))

    def indexer(self) -> Indexer:
        """As a worker of its own would have it, but without long pauses."""
        return Indexer(
            sessions=self.sessions,
            storages=self.storages,
            clock=SystemClock(),
            metrics=self.metrics,
            failed=self.failed,
            first_pause_secs=0.01,
        )

    async def script(self, **script: Any) -> None:
        async with self.provider.post("/_control/scripts", json=[script]) as response:
            assert response.status == 200, await response.text()

    async def forget_scripts(self) -> None:
        async with self.provider.delete("/_control/scripts") as response:
            assert response.status == 204

    async def held(self) -> tuple[list[Any], list[Any]]:
        """The files and the vector stores at the provider."""
        async with self.provider.get("/_control/storage") as response:
            storage = await response.json()
        return storage["files"], storage["vector_stores"]

    async def calls(self, method: str, pattern: str) -> int:
        """How many requests of that method the provider got whose path ends in what the pattern says."""
        return sum(record["method"] == method for record in await self.requests(pattern))

    async def requests(self, pattern: str) -> list[Any]:
        """The records of the requests whose path ends in what the pattern says."""
        async with self.provider.get("/_control/requests") as response:
            records = await response.json()
        return [record for record in records if re.search(f"{pattern}$", record["path"].partition("?")[0])]

    async def new_chat(self) -> UUID:
        now = SystemClock().now()
        chat = Chat(
            id=new_uuid7(),
            tenant_id=self.tenant_id,
            user_id=self.user_id,
            model="gpt-5.2",
            created_at=now,
            updated_at=now,
        )
        async with self.sessions.begin() as session:
            session.add(chat)
        return chat.id

    async def uploaded(
        self,
        chat_id: UUID,
        *,
        style: Style = "openai",
        age: timedelta = timedelta(),
        is_sent: bool = True,
        **columns: Any,
    ) -> Attachment:
        """An attachment in the state `uploaded`, whose file the provider has.

        Args:
            is_sent: false for an upload of which nothing has reached the provider.
        """
        now = SystemClock().now() - age
        values: dict[str, Any] = {
            "id": new_uuid7(),
            "filename": "notes.txt",
            "content_type": "text/plain",
            "size_bytes": 5,
            "status": "uploaded",
            "attachment_kind": "document",
            "for_file_search": columns.get("attachment_kind", "document") == "document",
            **columns,
        }
        if is_sent:
            file_id = await self.storage(style).upload_file(
                io.BytesIO(b"hello"),
                filename=f"{chat_id}_{values['id']}.txt",
                content_type="text/plain",
                purpose=DOCUMENT_PURPOSE,
            )
            values = {"provider_file_id": file_id, **values}
        attachment = Attachment(
            tenant_id=self.tenant_id,
            chat_id=chat_id,
            uploaded_by_user_id=self.user_id,
            storage_backend=BACKENDS[style],
            created_at=now,
            updated_at=now,
            **values,
        )
        async with self.sessions.begin() as session:
            session.add(attachment)
        return attachment

    async def now(self, attachment: Attachment) -> Attachment:
        """The row as it is stored now."""
        async with self.sessions() as session:
            return await session.get_one(Attachment, attachment.id)

    async def change(self, attachment: Attachment, **columns: Any) -> None:
        async with self.sessions.begin() as session:
            await session.execute(update(Attachment).where(Attachment.id == attachment.id).values(**columns))

    async def store_of(self, chat_id: UUID) -> ChatVectorStore | None:
        async with self.sessions() as session:
            store: ChatVectorStore | None = await session.scalar(
                select(ChatVectorStore).where(ChatVectorStore.chat_id == chat_id)
            )
            return store


def job_of(attachment: Attachment) -> IndexAttachment:
    return IndexAttachment(attachment.tenant_id, attachment.chat_id, attachment.id)


@asynccontextmanager
async def storage_stage(sessions: Sessions, **members: Any) -> AsyncIterator[StorageStage]:
    """
    Args:
        members: of both providers' configuration.
    """
    async with (
        serving(host="127.0.0.1", port=0) as url,
        aiohttp.ClientSession(url, timeout=aiohttp.ClientTimeout(total=10)) as provider,
    ):
        metrics, port = Metrics("test"), urlsplit(url).port or 0
        clients = ProviderClients(_providers(port, members))
        try:
            yield StorageStage(sessions, provider, port, ProviderStorages(clients, metrics), metrics)
        finally:
            await clients.aclose()


def _providers(port: int, members: dict[str, Any]) -> dict[str, ProviderConfig]:
    common = {"kind": "openai_responses", "host": "127.0.0.1", "port": port, "use_http": True, **members}
    azure = {"storage_kind": "azure", "api_version": "2025-01-01", "api_path": "/openai/v1/responses"}
    return {
        "openai": ProviderConfig.model_validate({"storage_kind": "openai", **common}),
        "azure": ProviderConfig.model_validate({"storage_backend": BACKENDS["azure"], **azure, **common}),
    }

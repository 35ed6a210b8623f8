"""Chats with files, as uploads leave them, and the part of a worker that cleans up after them."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Literal
from uuid import UUID

import pytest
from sqlalchemy import select, update

from shared.attachments.cleanup import CleanupRepository
from shared.attachments.repository import AttachmentRepository
from shared.attachments.tables import Attachment, ChatVectorStore
from shared.chats.tables import Chat
from shared.clock import SystemClock
from shared.db.engine import Sessions
from shared.ids import ChatId, TenantId, new_uuid4, new_uuid7
from shared.metrics import Metrics
from shared.outbox.messages import attachment_deleted, chat_cleanup
from shared.outbox.repository import Message
from shared.providers.storage import ProviderStorage, ProviderStorages
from tests.integration.outbox.deliveries import FAST, running
from tests.support.killing import KilledError
from tests.support.outbox_rows import count_undelivered
from tests.support.storage_provider import StorageProvider
from tests.support.waiting import wait_until
from worker.cleanup.attachment import AttachmentCleanup
from worker.cleanup.chat import ChatCleanup
from worker.cleanup.files import FileCleanup
from worker.cleanup.reconciliation import Reconciliation
from worker.cleanup.removal import Removal
from worker.outbox.delivery import Delivery

MAX_ATTEMPTS = 5

both_styles = pytest.mark.parametrize("scene", ["openai", "azure"], indirect=True)
"""For tests of the fixture `scene`: once for each style of storage."""

_names = count(1)


@dataclass
class Scene:
    sessions: Sessions
    provider: StorageProvider
    storages: ProviderStorages
    backend: str
    metrics: Metrics = field(default_factory=lambda: Metrics("test"))
    tenant_id: TenantId = field(default_factory=lambda: TenantId(new_uuid4()))

    @property
    def storage(self) -> ProviderStorage:
        return self.storages.of_backend(self.backend, self.tenant_id)

    async def add_chat(self, *, files: int = 2, with_store: bool = True) -> ChatId:
        """A live chat with that many documents, in a vector store unless told."""
        now = SystemClock().now()
        chat_id = ChatId(new_uuid7())
        values = {"user_id": new_uuid4(), "model": "gpt-5.2", "created_at": now, "updated_at": now}
        await self.add(Chat(id=chat_id, tenant_id=self.tenant_id, **values))
        store_id = await self.add_store(chat_id) if with_store else None
        for _ in range(files):
            await self.add_file(chat_id, store_id=store_id)
        return chat_id

    async def add_store(self, chat_id: ChatId) -> str:
        store_id = await self.storage.create_vector_store()
        await self.add(self.store_row(chat_id, vector_store_id=store_id))
        return store_id

    def store_row(self, chat_id: ChatId, *, vector_store_id: str | None) -> ChatVectorStore:
        return ChatVectorStore(
            id=new_uuid7(),
            tenant_id=self.tenant_id,
            chat_id=chat_id,
            vector_store_id=vector_store_id,
            provider=self.backend,
            created_at=SystemClock().now(),
        )

    async def add_file(self, chat_id: ChatId, *, store_id: str | None = None, **columns: Any) -> Attachment:
        """A ready document that the provider has."""
        row = self.row(chat_id, **columns)
        row.provider_file_id = await self.upload(row)
        if store_id is not None:
            await self.storage.add_file(store_id, row.provider_file_id, attachment_id=row.id)
        await self.add(row)
        return row

    def row(self, chat_id: ChatId, **columns: Any) -> Attachment:
        """An attachment's row, not yet stored."""
        values: dict[str, Any] = {
            "id": new_uuid7(),
            "tenant_id": self.tenant_id,
            "chat_id": chat_id,
            "uploaded_by_user_id": new_uuid4(),
            "filename": "notes.txt",
            "content_type": "text/plain",
            "size_bytes": 5,
            "storage_backend": self.backend,
            "status": "ready",
            "attachment_kind": "document",
            "for_file_search": True,
            "created_at": SystemClock().now(),
        }
        return Attachment(**(values | columns))

    async def upload(self, row: Attachment) -> str:
        """The provider's id of a file with the name that the row's file has."""
        name = f"{row.chat_id}_{row.id}.txt"
        return await self.storage.upload_file(
            io.BytesIO(b"hello"), filename=name, content_type="text/plain", purpose="assistants"
        )

    async def add(self, row: object) -> None:
        async with self.sessions.begin() as session:
            session.add(row)

    async def delete_chat(self, chat_id: ChatId) -> None:
        """As the API does it."""
        now = SystemClock().now()
        async with self.sessions.begin() as session:
            await session.execute(update(Chat).where(Chat.id == chat_id).values(deleted_at=now))
            await AttachmentRepository(session).mark_for_cleanup(chat_id, tenant_id=self.tenant_id, now=now)
            session.add(chat_cleanup(chat_id, tenant_id=self.tenant_id, deleted_at=now))

    async def delete_attachment(self, row: Attachment, *, store_id: str | None = None) -> None:
        """As the API does it."""
        now = SystemClock().now()
        async with self.sessions.begin() as session:
            deleted = await AttachmentRepository(session).delete_unreferenced(
                row.id, chat_id=ChatId(row.chat_id), tenant_id=self.tenant_id, now=now
            )
            assert deleted is not None
            session.add(attachment_deleted(deleted, vector_store_id=store_id, deleted_at=now))

    async def attachments(self, chat_id: ChatId) -> Sequence[Attachment]:
        async with self.sessions() as session:
            found = select(Attachment).where(Attachment.chat_id == chat_id).order_by(Attachment.id)
            return (await session.scalars(found)).all()

    async def statuses(self, chat_id: ChatId) -> list[str | None]:
        return [row.cleanup_status for row in await self.attachments(chat_id)]

    async def has_store_row(self, chat_id: ChatId) -> bool:
        async with self.sessions() as session:
            found = await session.scalar(select(ChatVectorStore.id).where(ChatVectorStore.chat_id == chat_id))
            return found is not None

    async def deliver_all(self) -> None:
        """Return when no message is undelivered."""

        async def is_empty() -> bool:
            return await count_undelivered(self.sessions) == 0

        async with running(self.delivery()):
            await wait_until(is_empty, timeout=60, interval=0.02)

    @property
    def removal(self) -> Removal:
        return Removal(self.storages, self.metrics)

    @property
    def chat_cleanup(self) -> ChatCleanup:
        return ChatCleanup(self.sessions, self._files, self.removal, self.metrics, max_attempts=20)

    @property
    def attachment_cleanup(self) -> AttachmentCleanup:
        return AttachmentCleanup(self.sessions, self._files, max_attempts=20)

    def reconciliation(self, *, batch: int = 32) -> Reconciliation:
        return Reconciliation(self.sessions, self.metrics, batch=batch, wake_outbox=lambda: None)

    def delivery(self) -> Delivery:
        """A worker's delivery of both queues."""
        return Delivery(
            settings=FAST,
            sessions=self.sessions,
            metrics=self.metrics,
            owner=f"cleaner-{next(_names)}",
            handlers=[self.chat_cleanup, self.attachment_cleanup],
        )

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"test_{name}", labels) or 0

    @property
    def _files(self) -> FileCleanup:
        return FileCleanup(self.sessions, self.removal, self.metrics, max_attempts=MAX_ATTEMPTS)


FAULTS: Mapping[str, tuple[type, str, Literal["before", "after"]]] = {
    "before_store_remove": (ProviderStorage, "remove_file", "before"),
    "after_store_remove": (ProviderStorage, "remove_file", "after"),
    "before_file_delete": (ProviderStorage, "delete_file", "before"),
    "after_file_delete": (ProviderStorage, "delete_file", "after"),
    "before_file_done": (CleanupRepository, "mark_done", "before"),
    "before_file_done_commit": (CleanupRepository, "mark_done", "after"),
    "before_files_counted": (CleanupRepository, "count_left", "before"),
    "before_store_delete": (ProviderStorage, "delete_vector_store", "before"),
    "after_store_delete": (ProviderStorage, "delete_vector_store", "after"),
    "before_store_row_drop": (CleanupRepository, "drop_vector_store", "before"),
    "before_store_row_drop_commit": (CleanupRepository, "drop_vector_store", "after"),
    "before_failure_counted": (CleanupRepository, "count_failure", "before"),
    "before_failure_counted_commit": (CleanupRepository, "count_failure", "after"),
}
"""Where a worker may die."""


@contextmanager
def dying_at(fault: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Within the block, whoever comes to that point dies there, as its process would."""
    owner, name, when = FAULTS[fault]
    work = getattr(owner, name)

    async def die(*args: Any, **kwargs: Any) -> None:
        if when == "after":
            await work(*args, **kwargs)
        raise KilledError

    with monkeypatch.context() as patches:
        patches.setattr(owner, name, die)
        with pytest.raises(KilledError):
            yield


def message_about(chat_id: ChatId, tenant_id: UUID, *, attempts: int = 0) -> Message:
    """A message that asks for the cleanup of a chat, as a handler gets it."""
    written = chat_cleanup(chat_id, tenant_id=TenantId(tenant_id), deleted_at=SystemClock().now())
    return Message(
        id=1,
        queue=written.queue,
        partition_key=written.partition_key,
        payload_type=written.payload_type,
        payload=written.payload,
        dedupe_key=None,
        attempts=attempts,
        created_at=written.created_at,
    )

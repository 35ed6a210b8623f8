"""Conversations as rows, and a provider of whole answers that needs no socket."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import insert, select

from shared.chats.tables import Chat
from shared.clock import SystemClock
from shared.db.engine import Sessions
from shared.ids import ChatId, TenantId, new_uuid4, new_uuid7
from shared.messages.tables import Message
from shared.metrics import Metrics
from shared.model_catalog.catalog import ProviderConfig
from shared.outbox.tables import OutboxMessage
from shared.providers.client import ProviderClients
from shared.settings import Settings
from shared.summaries.tables import ThreadSummary
from shared.summaries.trigger import Frontier
from shared.turns.lifecycle import TokenUsage
from tests.support.catalogs import STANDARD
from tests.support.finalizers import catalog_in_force
from worker.providers.base import Completion, GenerationRequest, Provider, ProviderStream
from worker.providers.registry import ProviderRegistry
from worker.summaries.job import ThreadSummaryJob
from worker.summaries.request import SummaryRequest

Answer = str | Exception
FRESH = timedelta(hours=1)


class AnsweringProvider:
    """Gives the answers it was told, in turn, and then the last one again and again."""

    def __init__(self, *answers: Answer, usage: TokenUsage | None = None) -> None:
        self.requests: list[GenerationRequest] = []
        self._answers = list(answers)
        self._usage = usage

    async def complete(self, request: GenerationRequest, *, on_requested: Callable[[], object]) -> Completion:
        on_requested()
        self.requests.append(request)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        return Completion(answer, "resp_1", self._usage, None)

    def open(
        self,
        request: GenerationRequest,  # noqa: ARG002
        *,
        on_requested: Callable[[], object],  # noqa: ARG002
    ) -> AbstractAsyncContextManager[ProviderStream]:
        raise AssertionError("summaries are not streamed")

    async def aclose(self) -> None:
        """Nothing is open."""


class OneProvider(ProviderRegistry):
    """A registry in which everything is served by the same provider."""

    def __init__(self, provider: Provider) -> None:
        super().__init__(ProviderClients({}), Metrics("test"))
        self._provider = provider

    def get(self, provider_id: str, tenant_id: UUID, otherwise: ProviderConfig | None = None) -> Provider:  # noqa: ARG002
        return self._provider


def summary_job(sessions: Sessions, provider: Provider, settings: Settings | None = None) -> ThreadSummaryJob:
    return ThreadSummaryJob(
        settings=settings or Settings(),
        sessions=sessions,
        providers=OneProvider(provider),
        catalog=catalog_in_force(),
        clock=SystemClock(),
        metrics=Metrics("test"),
    )


@dataclass
class Conversation:
    """A chat and what was said in it, oldest first."""

    sessions: Sessions
    chat_id: ChatId
    tenant_id: TenantId
    user_id: UUID
    places: list[Frontier] = field(default_factory=list)

    async def say(self, *texts: str, role: str | None = None, **columns: Any) -> None:
        """Add messages, of the user and the assistant in turn unless told; each a second after the one before."""
        rows = []
        for text in texts:
            place = Frontier(self._next_time(), new_uuid4())
            said_by = role or ("user" if len(self.places) % 2 == 0 else "assistant")
            values = {
                "id": place.message_id,
                "tenant_id": self.tenant_id,
                "chat_id": self.chat_id,
                "request_id": new_uuid4(),
                "role": said_by,
                "content": text,
                "created_at": place.created_at,
            }
            rows.append(values | columns)
            self.places.append(place)
        async with self.sessions.begin() as session:
            await session.execute(insert(Message), rows)

    def request(self, *, base: int | None = None, target: int) -> SummaryRequest:
        """For the range between two of the messages, by their index."""
        return SummaryRequest(
            tenant_id=self.tenant_id,
            chat_id=self.chat_id,
            system_request_id=new_uuid4(),
            base=None if base is None else self.places[base],
            target=self.places[target],
        )

    async def summary(self) -> ThreadSummary | None:
        async with self.sessions() as session:
            return await session.scalar(select(ThreadSummary).where(ThreadSummary.chat_id == self.chat_id))

    async def compressed(self) -> list[bool]:
        """Of each message, oldest first."""
        async with self.sessions() as session:
            statement = select(Message.is_compressed).where(Message.chat_id == self.chat_id)
            return list(await session.scalars(statement.order_by(Message.created_at, Message.id)))

    async def outgoing(self) -> Sequence[OutboxMessage]:
        async with self.sessions() as session:
            statement = select(OutboxMessage).where(OutboxMessage.partition_key == str(self.chat_id))
            return (await session.scalars(statement.order_by(OutboxMessage.id))).all()

    def _next_time(self) -> Any:
        if self.places:
            return self.places[-1].created_at + timedelta(seconds=1)
        return SystemClock().now() - FRESH


async def new_conversation(sessions: Sessions, *texts: str, model: str = STANDARD) -> Conversation:
    now = SystemClock().now()
    tenant_id, user_id = new_uuid4(), new_uuid4()
    chat = Chat(id=new_uuid7(), tenant_id=tenant_id, user_id=user_id, model=model, created_at=now, updated_at=now)
    async with sessions.begin() as session:
        session.add(chat)
    conversation = Conversation(sessions, ChatId(chat.id), TenantId(tenant_id), user_id)
    if texts:
        await conversation.say(*texts)
    return conversation

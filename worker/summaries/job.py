"""Writes the summary of a frozen range of a chat: read, ask the model, commit.

    message -> still needed? -> messages of the range -> model -> parsed -> one transaction

The message may come twice, late, or behind a later one. Nothing is written before the last step, and that is a
compare-and-set on the frontier: of all runs for a range one commits, the others find the frontier moved and do nothing.
A run that dies anywhere has at worst asked the model in vain. Until the commit the old summary stays in use; later
turns, which see the new frontier and the messages behind it in one snapshot, never see half of the change.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from uuid import UUID

from sqlalchemy import Select, func, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from shared.chats.tables import Chat
from shared.clock import Clock
from shared.db.engine import Sessions
from shared.db.transaction import run_transaction
from shared.logs import log_fields
from shared.messages.tables import Message
from shared.metrics import Metrics
from shared.model_catalog.catalog import CatalogModel
from shared.model_catalog.holder import CatalogHolder
from shared.outbox import messages as outbox
from shared.outbox.repository import Message as OutboxMessage
from shared.quotas.credits import MAX_TOKENS
from shared.settings import DEFAULT_SUMMARY_PROMPT, Settings
from shared.summaries.repository import SummaryRepository
from shared.summaries.trigger import Frontier
from shared.turns.context import PlannedMessage
from shared.turns.lifecycle import TokenUsage
from worker.providers.base import Completion, GenerationRequest, ProviderError
from worker.providers.registry import ProviderRegistry
from worker.summaries.asking import ask, models_for
from worker.summaries.output import parse_summary
from worker.summaries.prompt import summary_question, without_oldest
from worker.summaries.request import SummaryRequest

logger = logging.getLogger(__name__)

MAX_SHORTER_TRIES = 2
_CONTEXT_LENGTH_MARKS = ("context_length_exceeded", "maximum context length", "token limit", "too many tokens")


class EmptySummaryError(Exception):
    """The model's answer holds no summary; another try may."""


@dataclass(frozen=True, slots=True)
class _Task:
    """What the model is to be asked, as it was read."""

    owner_id: UUID
    model: CatalogModel
    existing: str | None
    messages: tuple[PlannedMessage, ...]


@dataclass(frozen=True)
class ThreadSummaryJob:
    """The outbox's handler of thread summaries. Whatever it raises asks for another delivery."""

    settings: Settings
    sessions: Sessions
    providers: ProviderRegistry
    catalog: CatalogHolder
    clock: Clock
    metrics: Metrics

    @property
    def queue(self) -> str:
        return outbox.THREAD_SUMMARY

    @property
    def max_attempts(self) -> int:
        return self.settings.thread_summary_worker.max_attempts

    async def handle(self, message: OutboxMessage) -> None:
        """Bring the chat's summary up to the frozen target, unless that has happened or is not wanted any more.

        Raises:
            RejectedMessageError: the message can never be carried out.
            ProviderError, EmptySummaryError: no summary was had; nothing has changed.
        """
        request = SummaryRequest.parse(message.payload)
        fields = {"chat_id": str(request.chat_id), "tenant_id": str(request.tenant_id), "requester_type": "system"}
        with log_fields(**fields, processing_stage="summarize"):
            try:
                await self.update(request)
            except Exception:
                if message.attempts + 1 >= self.max_attempts:
                    self.metrics.summary_fallback.inc()
                raise

    async def update(self, request: SummaryRequest) -> bool:
        """As `handle`; whether this call has committed a summary."""
        async with self.sessions() as session:
            task = await self._find_task(session, request)
        if task is None:
            return False
        completion = await self._ask(request, task)
        text = parse_summary(completion.text)
        if not text:
            self._count("empty_summary")
            raise EmptySummaryError(f"no summary in an answer of {len(completion.text)} characters")
        is_committed = await run_transaction(
            self.sessions, lambda session: self._commit(session, request, task.model, text, completion.usage)
        )
        if is_committed:
            self._count("success")
            self.metrics.outbox_enqueue.labels(kind=outbox.USAGE_SNAPSHOT, result="ok").inc()
        return is_committed

    async def _find_task(self, session: AsyncSession, request: SummaryRequest) -> _Task | None:
        chat = await session.scalar(
            select(Chat).where(
                Chat.id == request.chat_id, Chat.tenant_id == request.tenant_id, Chat.deleted_at.is_(None)
            )
        )
        if chat is None:
            return None
        summary = await SummaryRepository(session).find(request.chat_id, tenant_id=request.tenant_id)
        stored = (
            None
            if summary is None
            else Frontier(summary.summarized_up_to_created_at, summary.summarized_up_to_message_id)
        )
        if stored != request.base:
            self.metrics.thread_summary_cas_conflicts.inc()
            return None
        rows = await session.execute(_range(request, self.settings.thread_summary_worker.message_content_limit))
        messages = tuple(PlannedMessage("user" if row.role == "user" else "assistant", row.content) for row in rows)
        if not messages:
            return None
        return _Task(chat.user_id, self._model_for(chat), None if summary is None else summary.summary_text, messages)

    def _model_for(self, chat: Chat) -> CatalogModel:
        wanted = self.settings.thread_summary_worker.summary_model_id
        model = next(models_for(self.catalog.current, wanted=wanted, chat_model=chat.model), None)
        if model is None:
            raise LookupError("no enabled model can summarize")
        return model

    async def _ask(self, request: SummaryRequest, task: _Task) -> Completion:
        """The model's answer, about fewer messages if all of them are too long for it."""
        messages: Sequence[PlannedMessage] = task.messages
        for tries_left in range(MAX_SHORTER_TRIES, -1, -1):
            try:
                generation = self._generation(request, task, messages)
                return await ask(generation, providers=self.providers, metrics=self.metrics)
            except ProviderError as error:
                shorter = without_oldest(messages) if tries_left and _is_context_length(error) else None
                if shorter is None:
                    self._count("timeout" if error.code == "provider_timeout" else "provider_error")
                    raise
                self._count("retry")
                messages = shorter
        raise AssertionError("the last try returns or raises")

    def _generation(
        self, request: SummaryRequest, task: _Task, messages: Sequence[PlannedMessage]
    ) -> GenerationRequest:
        options = self.settings.thread_summary_worker
        question = summary_question(messages, existing=task.existing, content_limit=options.message_content_limit)
        return GenerationRequest(
            model=task.model,
            instructions=task.model.thread_summary_prompt or options.summary_system_prompt or DEFAULT_SUMMARY_PROMPT,
            history=(PlannedMessage("user", question),),
            max_output_tokens=task.model.max_output_tokens,
            tenant_id=request.tenant_id,
            user_id=task.owner_id,
            chat_id=request.chat_id,
            request_kind="summary",
        )

    async def _commit(
        self, session: AsyncSession, request: SummaryRequest, model: CatalogModel, text: str, usage: TokenUsage | None
    ) -> bool:
        """Summary, marks and usage event, or nothing. The chat's row is locked first, as by whatever changes a chat."""
        chat_id, tenant_id = request.chat_id, request.tenant_id
        is_alive = await session.scalar(
            select(Chat.id)
            .where(Chat.id == chat_id, Chat.tenant_id == tenant_id, Chat.deleted_at.is_(None))
            .with_for_update(key_share=True)
        )
        if is_alive is None:
            return False
        summaries = SummaryRepository(session)
        has_moved = await summaries.advance(
            chat_id,
            tenant_id=tenant_id,
            base=request.base,
            target=request.target,
            text=text,
            token_estimate=estimate_tokens(text, usage),
        )
        if not has_moved:
            self.metrics.thread_summary_cas_conflicts.inc()
            return False
        await summaries.mark_compressed(chat_id, tenant_id=tenant_id, base=request.base, target=request.target)
        session.add(
            outbox.system_usage(
                task="thread_summary_update",
                tenant_id=tenant_id,
                chat_id=chat_id,
                system_request_id=request.system_request_id,
                model=model.id,
                policy_version=self.catalog.current.policy_version,
                usage=asdict(usage or TokenUsage()),
                at=self.clock.now(),
            )
        )
        return True

    def _count(self, result: str) -> None:
        self.metrics.thread_summary_execution.labels(result=result).inc()


def estimate_tokens(text: str, usage: TokenUsage | None) -> int:
    """What the summary costs later turns, as clients are told it: as counted, unless that is absurd."""
    if usage is not None and 0 < usage.output_tokens <= MAX_TOKENS:
        return usage.output_tokens
    return -(-len(text.encode()) // 4)


def _range(request: SummaryRequest, content_limit: int) -> Select[str, str]:
    """The live messages of the range that no summary covers yet, oldest first, no more of each than will be told."""
    place = tuple_(Message.created_at, Message.id)
    content = func.left(Message.content, content_limit + 1) if content_limit else Message.content
    statement = select(Message.role, content.label("content")).where(
        Message.tenant_id == request.tenant_id,
        Message.chat_id == request.chat_id,
        Message.request_id.is_not(None),
        Message.deleted_at.is_(None),
        Message.is_compressed.is_(False),
        Message.role != "system",
        place <= tuple_(request.target.created_at, request.target.message_id),
    )
    if request.base is not None:
        statement = statement.where(place > tuple_(request.base.created_at, request.base.message_id))
    return statement.order_by(Message.created_at, Message.id)


def _is_context_length(error: ProviderError) -> bool:
    told = f"{error.message}\n{error.detail}".lower()
    return any(mark in told for mark in _CONTEXT_LENGTH_MARKS)

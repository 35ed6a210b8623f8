"""A conversation of hundreds of turns through the planner, the finalization and the summary job, without sockets.

Questions and answers are of random length, from a seed; each begins with a word that no other has. A summary is
delivered some turns after it was asked for, as a busy worker would.
"""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import select

from shared.clock import SystemClock
from shared.db.engine import Sessions
from shared.ids import TenantId, new_uuid4
from shared.messages.tables import Message
from shared.model_catalog.holder import CatalogHolder
from shared.outbox.tables import OutboxMessage
from shared.settings import Settings
from shared.summaries.tables import ThreadSummary
from shared.summaries.trigger import schedule_summary
from shared.turns.lifecycle import Ending, TokenUsage
from shared.turns.tables import Turn
from shared.turns.tools import NO_TOOLS
from tests.support.catalogs import STANDARD, acceptance_catalog
from tests.support.conversations import AnsweringProvider, Conversation, new_conversation, summary_job
from tests.support.finalizers import catalog_in_force, make_finalizer, policies_of
from worker.summaries.job import ThreadSummaryJob
from worker.summaries.request import SummaryRequest
from worker.turns.plan import PlannedTurn, TurnPlanner

WINDOW, MAX_INPUT, MAX_OUTPUT = 14_000, 12_000, 2_000
MAX_DELAY = 3
"""Turns between the request for a summary and its delivery."""


@dataclass(frozen=True)
class TurnRecord:
    """What one turn looked like when its request had been built, and what followed."""

    number: int
    planned: PlannedTurn
    assembly_secs: float
    summary: ThreadSummary | None
    """As it was stored when the turn was planned."""
    is_summary_asked_for: bool


def small_catalog() -> CatalogHolder:
    """The acceptance catalog with a model whose window a few dozen messages fill."""
    tree = acceptance_catalog()
    for model in tree["model_catalog"]:
        if model["id"] == STANDARD:
            model |= {"context_window": WINDOW, "max_input_tokens": MAX_INPUT, "max_output_tokens": MAX_OUTPUT}
            model["estimation_budgets"]["fixed_overhead_tokens"] = 50
    return catalog_in_force(tree)


@dataclass
class LongConversation:
    chat: Conversation
    planner: TurnPlanner
    job: ThreadSummaryJob
    settings: Settings
    dice: random.Random
    waiting: list[tuple[int, SummaryRequest]] = field(default_factory=list)
    """Requests for a summary, with the turn before which they are delivered."""
    seen: int = 0

    @classmethod
    async def begin(cls, sessions: Sessions, *, seed: int = 7) -> LongConversation:
        settings = Settings()
        chat = await new_conversation(sessions)
        provider = AnsweringProvider("<summary>" + "What was said so far. " * 60 + "</summary>")
        return cls(
            chat=chat,
            planner=TurnPlanner(settings, sessions, policies_of(small_catalog(), sessions, settings)),
            job=summary_job(sessions, provider, settings),
            settings=settings,
            dice=random.Random(seed),
        )

    async def turns(self, count: int) -> AsyncIterator[TurnRecord]:
        for number in range(count):
            await self._deliver(number)
            turn = await self._ask(self._text(f"q{number}."))
            summary = await self.chat.summary()
            began = time.perf_counter()
            planned = await self.planner.plan(turn, counted=NO_TOOLS)
            assembly_secs = time.perf_counter() - began
            await self._answer(turn, self._text(f"a{number}."), planned)
            is_asked_for = await self._complete(number, planned)
            yield TurnRecord(number, planned, assembly_secs, summary, is_asked_for)

    def _text(self, mark: str) -> str:
        return f"{mark} {'word ' * self.dice.choice((20, 100, 400, 800, 1_600))}"

    async def _ask(self, text: str) -> Turn:
        chat, now = self.chat, SystemClock().now()
        values: dict[str, Any] = {"tenant_id": chat.tenant_id, "chat_id": chat.chat_id, "request_id": new_uuid4()}
        turn = Turn(
            **values,
            id=new_uuid4(),
            requester_type="user",
            requester_user_id=chat.user_id,
            state="running",
            planned_message_id=new_uuid4(),
            effective_model=STANDARD,
            max_output_tokens_applied=MAX_OUTPUT,
            policy_version_applied=1,
            quota_decision="allow",
            image_inputs=0,
            attempt=0,
            started_at=now,
            last_progress_at=now,
            updated_at=now,
        )
        async with chat.sessions.begin() as session:
            session.add_all([turn, Message(**values, id=new_uuid4(), role="user", content=text, created_at=now)])
        return turn

    async def _answer(self, turn: Turn, text: str, planned: PlannedTurn) -> None:
        usage = TokenUsage(planned.use.assembled_tokens, len(text) // 4)
        ending = Ending.completed(text=text, usage=usage, response_id=None)
        done = await make_finalizer(self.chat.sessions, self.settings).finalize(turn, ending, attempt=0)
        assert done is not None

    async def _complete(self, number: int, planned: PlannedTurn) -> bool:
        async with self.chat.sessions.begin() as session:
            is_asked_for = await schedule_summary(
                session,
                tenant_id=TenantId(self.chat.tenant_id),
                chat_id=self.chat.chat_id,
                use=planned.use,
                threshold_pct=self.settings.thread_summary_worker.compression_threshold_pct,
            )
        if is_asked_for:
            async with self.chat.sessions() as session:
                statement = select(OutboxMessage).where(
                    OutboxMessage.partition_key == str(self.chat.chat_id),
                    OutboxMessage.queue == "thread_summary",
                    OutboxMessage.id > self.seen,
                )
                (message,) = (await session.scalars(statement)).all()
            self.seen = message.id
            self.waiting.append((number + self.dice.randint(1, MAX_DELAY), SummaryRequest.parse(message.payload)))
        return is_asked_for

    async def _deliver(self, number: int) -> None:
        """In the order in which they were asked for, one after the other, as the outbox does."""
        while self.waiting and self.waiting[0][0] <= number:
            _, request = self.waiting.pop(0)
            await self.job.update(request)

"""Turns stored state into the request of a turn: reads history, summary and files, plans, and fills the request in.

Everything is read as it was before the turn's own user message, so that what others write meanwhile changes nothing.
The summary and the messages behind its frontier come from one statement, hence one snapshot: a summary that is
committed at the same moment is seen whole or not at all. Tools are those that were counted when the turn was accepted,
less those whose files have gone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from sqlalchemy import DateTime, Integer, String, Text, Uuid, bindparam, column, text
from sqlalchemy.ext.asyncio import AsyncSession

from shared.db.engine import Sessions
from shared.model_catalog.catalog import CatalogModel, KillSwitches, ProviderConfig
from shared.policy.source import PolicySource
from shared.quotas.estimation import budgets_of
from shared.settings import Settings
from shared.summaries.trigger import ContextUse
from shared.turns.context import ContextPlan, PlannedMessage, plan_context
from shared.turns.tables import Turn
from shared.turns.tools import IncludedTools, include_tools
from worker.providers.base import GenerationRequest
from worker.turns.files import NO_FILES, ChatFiles, load_chat_files, load_images
from worker.turns.tool_requests import tool_requests

# Both ends of the range are conditions of one index, whose newest entries are read until the limit is reached: the cost
# is that of the messages sent, however long the chat, and however much of it a summary covers.
HISTORY_SQL: Final = text(
    """
    WITH own AS MATERIALIZED (
        SELECT created_at, id, content FROM messages
        WHERE tenant_id = :tenant AND chat_id = :chat AND request_id = :request AND role = 'user'
          AND deleted_at IS NULL
    ), summary AS MATERIALIZED (
        SELECT summarized_up_to_created_at AS created_at, summarized_up_to_message_id AS id, summary_text
        FROM thread_summaries WHERE tenant_id = :tenant AND chat_id = :chat
    )
    SELECT 'own' AS kind, content, created_at, id FROM own
    UNION ALL
    SELECT 'summary', summary_text, created_at, id FROM summary
    UNION ALL
    SELECT recent.role, recent.content, recent.created_at, recent.id
    FROM own LEFT JOIN summary ON true CROSS JOIN LATERAL (
        SELECT role, content, created_at, id FROM messages
        WHERE tenant_id = :tenant AND chat_id = :chat AND deleted_at IS NULL AND request_id IS NOT NULL
          AND NOT is_compressed AND role <> 'system'
          AND (messages.created_at, messages.id) < (own.created_at, own.id)
          AND (messages.created_at, messages.id) > (
              coalesce(summary.created_at, '-infinity'),
              coalesce(summary.id, '00000000-0000-0000-0000-000000000000')
          )
        ORDER BY messages.created_at DESC, messages.id DESC
        LIMIT :recent_limit
    ) AS recent
    """
).bindparams(
    bindparam("tenant", type_=Uuid),
    bindparam("chat", type_=Uuid),
    bindparam("request", type_=Uuid),
    bindparam("recent_limit", type_=Integer),
)
_LOAD_HISTORY = HISTORY_SQL.columns(
    column("kind", String),
    column("content", Text),
    column("created_at", DateTime(timezone=True)),
    column("id", Uuid),
)


@dataclass(frozen=True, slots=True)
class History:
    """What was said: the turn's question, the messages before it that no summary covers, and the summary."""

    user_text: str
    recent: tuple[PlannedMessage, ...]
    summary: str | None


@dataclass(frozen=True, slots=True)
class PlannedTurn:
    """A request that fits, and what its plan made of the budget."""

    model: CatalogModel
    provider: ProviderConfig
    request: GenerationRequest
    context: ContextPlan
    use: ContextUse


@dataclass(frozen=True)
class TurnPlanner:
    settings: Settings
    sessions: Sessions
    policies: PolicySource

    async def plan(self, turn: Turn, *, counted: IncludedTools) -> PlannedTurn:
        """The turn's request.

        Args:
            counted: the tools that were decided on, and paid for, when the turn was accepted.

        Raises:
            ContextBudgetExceededError, LookupError: it cannot be built.
        """
        # The policy that the turn was accepted under, whatever this process would accept turns under now.
        catalog = await self.policies.snapshot(turn.policy_version_applied or 0)
        model = catalog.find_model(turn.effective_model or "")
        if model is None:
            raise LookupError(f"model {turn.effective_model} is not in the policy of the turn")
        if turn.requester_user_id is None:
            raise LookupError("the turn has no requester")
        async with self.sessions() as session:
            history = await load_history(
                session,
                tenant_id=turn.tenant_id,
                chat_id=turn.chat_id,
                request_id=turn.request_id,
                recent_limit=self.settings.context.recent_messages_limit,
            )
            files = await self._load_files(session, turn, counted)
            images = await _load_images(session, turn)
        # The switches were asked when the turn was accepted: they bind from the next one on.
        tools = counted & include_tools(
            model=model,
            kind=catalog.provider_of(model).kind,
            kill_switches=KillSwitches(),
            is_web_search_wanted=True,
            files=files.available,
        )
        max_output_tokens = turn.max_output_tokens_applied or model.max_output_tokens
        context = plan_context(
            model=model,
            budgets=budgets_of(model, self.settings),
            max_output_tokens=max_output_tokens,
            recent=history.recent,
            user_text=history.user_text,
            images=len(images),
            tools=tools,
            guards=self.settings.context,
            summary=history.summary,
            documents=files.document_summaries if self.settings.doc_summary.enabled else (),
        )
        request = GenerationRequest(
            model=model,
            instructions=context.instructions,
            history=context.messages,
            max_output_tokens=max_output_tokens,
            tenant_id=turn.tenant_id,
            user_id=turn.requester_user_id,
            chat_id=turn.chat_id,
            request_kind="chat",
            image_file_ids=images,
            tools=tool_requests(
                tools,
                files=files,
                model=model,
                search_context_size=self.settings.streaming.web_search_context_size,
            ),
        )
        use = ContextUse(
            context.assembled_tokens,
            context.messages_truncated,
            context_window=model.context_window,
            max_output_tokens=max_output_tokens,
        )
        return PlannedTurn(model, catalog.provider_of(model), request, context, use)

    async def _load_files(self, session: AsyncSession, turn: Turn, counted: IncludedTools) -> ChatFiles:
        if counted.file_search or counted.code_interpreter or self.settings.doc_summary.enabled:
            return await load_chat_files(session, tenant_id=turn.tenant_id, chat_id=turn.chat_id)
        return NO_FILES


async def load_history(
    session: AsyncSession, *, tenant_id: UUID, chat_id: UUID, request_id: UUID, recent_limit: int
) -> History:
    """The turn's question and what came before it, of live messages the newest `recent_limit`.

    Raises:
        LookupError: the turn has no live user message: it was deleted.
    """
    values = {"tenant": tenant_id, "chat": chat_id, "request": request_id, "recent_limit": recent_limit}
    rows = (await session.execute(_LOAD_HISTORY, values)).all()
    told = {row.kind: row.content for row in rows if row.kind in {"own", "summary"}}
    if "own" not in told:
        raise LookupError("the turn's user message is gone")
    messages = sorted((row for row in rows if row.kind not in told), key=lambda row: (row.created_at, row.id))
    recent = tuple(PlannedMessage("user" if row.kind == "user" else "assistant", row.content) for row in messages)
    return History(told["own"], recent, told.get("summary"))


async def _load_images(session: AsyncSession, turn: Turn) -> tuple[str, ...]:
    if turn.image_inputs == 0:
        return ()
    return await load_images(session, tenant_id=turn.tenant_id, chat_id=turn.chat_id, request_id=turn.request_id)

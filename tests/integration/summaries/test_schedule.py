"""Which range a completed turn asks a summary for."""

from __future__ import annotations

from shared.clock import rfc3339
from shared.db.engine import Sessions
from shared.summaries.trigger import ContextUse, schedule_summary
from tests.support.conversations import AnsweringProvider, Conversation, new_conversation, summary_job
from worker.summaries.request import SummaryRequest

FULL = ContextUse(1_000, messages_truncated=False, context_window=1_000, max_output_tokens=100)
CUT = ContextUse(500, messages_truncated=True, context_window=1_000, max_output_tokens=100)
ROOMY = ContextUse(500, messages_truncated=False, context_window=1_000, max_output_tokens=100)


async def schedule(chat: Conversation, use: ContextUse) -> bool:
    async with chat.sessions.begin() as session:
        return await schedule_summary(
            session, tenant_id=chat.tenant_id, chat_id=chat.chat_id, use=use, threshold_pct=80
        )


async def test_the_range_ends_with_the_newest_message(sessions: Sessions) -> None:
    chat = await new_conversation(sessions, "q0", "a0")
    assert await schedule(chat, FULL)
    (message,) = await chat.outgoing()
    assert (message.queue, message.partition_key) == ("thread_summary", str(chat.chat_id))
    assert message.payload | {"system_request_id": "?"} == {
        "tenant_id": str(chat.tenant_id),
        "chat_id": str(chat.chat_id),
        "system_request_id": "?",
        "system_task_type": "thread_summary_update",
        "base_frontier_created_at": None,
        "base_frontier_message_id": None,
        "frozen_target_created_at": rfc3339(chat.places[1].created_at),
        "frozen_target_message_id": str(chat.places[1].message_id),
    }
    assert SummaryRequest.parse(message.payload).target == chat.places[1]


async def test_a_renewed_summary_begins_at_the_old_one_s_end(sessions: Sessions) -> None:
    chat = await new_conversation(sessions, "q0", "a0")
    await summary_job(sessions, AnsweringProvider("Short.")).update(chat.request(target=1))
    await chat.say("q1", "a1")
    assert not await schedule(chat, FULL)
    assert await schedule(chat, CUT)
    request = SummaryRequest.parse((await chat.outgoing())[-1].payload)
    assert (request.base, request.target) == (chat.places[1], chat.places[3])


async def test_nothing_new_needs_no_summary(sessions: Sessions) -> None:
    chat = await new_conversation(sessions, "q0", "a0")
    assert not await schedule(chat, ROOMY)
    await summary_job(sessions, AnsweringProvider("Short.")).update(chat.request(target=1))
    assert not await schedule(chat, CUT)
    assert not await schedule(await new_conversation(sessions), CUT)

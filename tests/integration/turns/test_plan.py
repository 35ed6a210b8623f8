"""What the planner reads, on a real database: history, summary, files, images; and what that costs."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Uuid, bindparam, insert, text, update

from shared.attachments.tables import Attachment, ChatVectorStore
from shared.clock import SystemClock
from shared.db.engine import Sessions
from shared.ids import new_uuid4
from shared.messages.tables import Message, MessageAttachment
from shared.settings import ContextSettings, DocSummarySettings, Settings
from shared.turns.context import SUMMARY_PREAMBLE
from shared.turns.tables import Turn
from shared.turns.tools import NO_TOOLS, IncludedTools
from tests.support.conversations import AnsweringProvider, Conversation, new_conversation, summary_job
from tests.support.finalizers import catalog_in_force, policies_of
from worker.turns.files import load_cited_files
from worker.turns.plan import HISTORY_SQL, PlannedTurn, TurnPlanner

ALL_TOOLS = IncludedTools(file_search=True, web_search=True, code_interpreter=True)
MANY = 100_000


def planner(sessions: Sessions, **groups: Any) -> TurnPlanner:
    settings = Settings(**groups)
    return TurnPlanner(settings, sessions, policies_of(catalog_in_force(), sessions, settings))


async def ask(chat: Conversation, question: str = "now?", **columns: Any) -> Turn:
    """A running turn with its question."""
    request_id = new_uuid4()
    await chat.say(question, role="user", request_id=request_id)
    now = SystemClock().now()
    values: dict[str, Any] = {
        "id": new_uuid4(),
        "tenant_id": chat.tenant_id,
        "chat_id": chat.chat_id,
        "request_id": request_id,
        "requester_type": "user",
        "requester_user_id": chat.user_id,
        "state": "running",
        "policy_version_applied": 1,
        "planned_message_id": new_uuid4(),
        "effective_model": "gpt-5.2",
        "max_output_tokens_applied": 8_192,
        "image_inputs": 0,
        "started_at": now,
        "last_progress_at": now,
        "updated_at": now,
    }
    turn = Turn(**(values | columns))
    async with chat.sessions.begin() as session:
        session.add(turn)
    return turn


async def attach(chat: Conversation, file_id: str, **columns: Any) -> UUID:
    """A ready document for file search, unless told."""
    now = SystemClock().now()
    values: dict[str, Any] = {
        "id": new_uuid4(),
        "tenant_id": chat.tenant_id,
        "chat_id": chat.chat_id,
        "uploaded_by_user_id": chat.user_id,
        "filename": f"{file_id}.txt",
        "content_type": "text/plain",
        "size_bytes": 1,
        "storage_backend": "openai",
        "provider_file_id": file_id,
        "status": "ready",
        "attachment_kind": "document",
        "for_file_search": True,
        "created_at": now,
        "updated_at": now,
    }
    async with chat.sessions.begin() as session:
        await session.execute(insert(Attachment).values(**(values | columns)))
    attachment_id: UUID = (values | columns)["id"]
    return attachment_id


async def add_store(chat: Conversation, store_id: str | None) -> None:
    async with chat.sessions.begin() as session:
        session.add(
            ChatVectorStore(
                id=new_uuid4(),
                tenant_id=chat.tenant_id,
                chat_id=chat.chat_id,
                vector_store_id=store_id,
                provider="openai",
                created_at=SystemClock().now(),
            )
        )


def texts(planned: PlannedTurn) -> list[str]:
    return [message.text for message in planned.request.history]


async def test_recent_messages_come_in_order_and_the_question_last(sessions: Sessions) -> None:
    chat = await new_conversation(sessions, *(f"m{n}" for n in range(14)))
    planned = await planner(sessions).plan(await ask(chat), counted=NO_TOOLS)
    assert texts(planned) == [*(f"m{n}" for n in range(4, 14)), "now?"]


async def test_without_history_the_question_stands_alone(sessions: Sessions) -> None:
    chat = await new_conversation(sessions, "q0", "a0")
    forgetful = planner(sessions, context=ContextSettings(recent_messages_limit=0))
    assert texts(await forgetful.plan(await ask(chat), counted=NO_TOOLS)) == ["now?"]


async def test_what_is_deleted_or_the_system_s_is_not_sent(sessions: Sessions) -> None:
    chat = await new_conversation(sessions, "kept")
    await chat.say("gone", deleted_at=SystemClock().now())
    await chat.say("rules", role="system")
    await chat.say("nobody's", request_id=None)
    await chat.say("covered", is_compressed=True)
    assert texts(await planner(sessions).plan(await ask(chat), counted=NO_TOOLS)) == ["kept", "now?"]


async def test_a_summary_replaces_what_it_covers(sessions: Sessions) -> None:
    chat = await new_conversation(sessions, "q0", "a0", "q1", "a1")
    await summary_job(sessions, AnsweringProvider("Short.")).update(chat.request(target=1))
    planned = await planner(sessions).plan(await ask(chat), counted=NO_TOOLS)
    assert texts(planned) == [f"{SUMMARY_PREAMBLE}\n\nShort.", "q1", "a1", "now?"]


async def test_what_others_write_meanwhile_changes_nothing(sessions: Sessions) -> None:
    """Everything behind the question is another turn's; and a summary is seen whole or not at all."""
    chat = await new_conversation(sessions, "q0", "a0", "q1", "a1")
    turn = await ask(chat)
    await chat.say("later", "much later")
    before = ["q0", "a0", "q1", "a1", "now?"]
    after = [f"{SUMMARY_PREAMBLE}\n\nShort.", "q1", "a1", "now?"]
    made = planner(sessions)
    assert texts(await made.plan(turn, counted=NO_TOOLS)) == before
    job = asyncio.ensure_future(summary_job(sessions, AnsweringProvider("Short.")).update(chat.request(target=1)))
    seen = [texts(await made.plan(turn, counted=NO_TOOLS)) for _ in range(20)]
    await job
    assert all(told in (before, after) for told in seen)
    assert texts(await made.plan(turn, counted=NO_TOOLS)) == after


async def test_a_question_that_is_gone_cannot_be_planned(sessions: Sessions) -> None:
    chat = await new_conversation(sessions)
    turn = await ask(chat)
    async with sessions.begin() as session:
        await session.execute(
            update(Message).where(Message.chat_id == chat.chat_id).values(deleted_at=SystemClock().now())
        )
    with pytest.raises(LookupError):
        await planner(sessions).plan(turn, counted=NO_TOOLS)


async def test_all_tools_in_their_form_and_order(sessions: Sessions) -> None:
    chat = await new_conversation(sessions)
    await add_store(chat, "vs_1")
    await attach(chat, "file-doc")
    now = SystemClock().now()
    sheet = {"for_file_search": False, "for_code_interpreter": True}
    await attach(chat, "file-b", created_at=now, **sheet)
    await attach(chat, "file-a", created_at=now + timedelta(seconds=1), **sheet)
    planned = await planner(sessions).plan(await ask(chat), counted=ALL_TOOLS)
    assert planned.request.tools == (
        {"type": "file_search", "vector_store_ids": ["vs_1"], "max_num_results": 10},
        {"type": "web_search", "search_context_size": "low"},
        {"type": "code_interpreter", "container": {"type": "auto", "file_ids": ["file-b", "file-a"]}},
    )
    assert "web_search" in (planned.request.instructions or "")
    assert "file_search" in (planned.request.instructions or "")


async def test_tools_whose_files_have_gone_are_left_out(sessions: Sessions) -> None:
    """And none is added that was not counted."""
    chat = await new_conversation(sessions)
    await add_store(chat, None)
    await attach(chat, "file-doc")
    await attach(chat, "file-x", for_code_interpreter=True, deleted_at=SystemClock().now())
    turn = await ask(chat)
    planned = await planner(sessions).plan(turn, counted=ALL_TOOLS)
    assert [tool["type"] for tool in planned.request.tools] == ["web_search"]
    await attach(chat, "file-y", for_code_interpreter=True)
    assert (await planner(sessions).plan(turn, counted=NO_TOOLS)).request.tools == ()


async def test_images_follow_in_the_order_they_were_attached(sessions: Sessions) -> None:
    chat = await new_conversation(sessions, "q0", "a0")
    turn = await ask(chat, image_inputs=2)
    now, message_id = SystemClock().now(), chat.places[-1].message_id
    image = {"attachment_kind": "image", "for_file_search": False}
    for position, file_id in enumerate(("file-2", "file-1", "file-gone")):
        gone = {"deleted_at": now} if file_id == "file-gone" else {}
        link = {
            "tenant_id": chat.tenant_id,
            "chat_id": chat.chat_id,
            "message_id": message_id,
            "attachment_id": await attach(chat, file_id, **image, **gone),
            "created_at": now + timedelta(microseconds=position),
        }
        async with sessions.begin() as session:
            await session.execute(insert(MessageAttachment).values(**link))
    await attach(chat, "file-of-another-turn", **image)
    assert (await planner(sessions).plan(turn, counted=NO_TOOLS)).request.image_file_ids == ("file-2", "file-1")


async def test_document_summaries_are_told_if_switched_on(sessions: Sessions) -> None:
    chat = await new_conversation(sessions)
    await attach(chat, "file-doc", doc_summary="About cats.")
    turn = await ask(chat)
    assert texts(await planner(sessions).plan(turn, counted=NO_TOOLS)) == ["now?"]
    told = texts(await planner(sessions, doc_summary=DocSummarySettings(enabled=True)).plan(turn, counted=NO_TOOLS))
    assert "file-doc.txt: About cats." in told[0]


async def test_cited_files_are_the_chat_s_own(sessions: Sessions) -> None:
    chat, other = await new_conversation(sessions), await new_conversation(sessions)
    mine = await attach(chat, "file-mine")
    await attach(chat, "file-gone", deleted_at=SystemClock().now())
    await attach(other, "file-theirs")
    async with sessions() as session:
        found = await load_cited_files(
            session,
            tenant_id=chat.tenant_id,
            chat_id=chat.chat_id,
            file_ids={"file-mine", "file-gone", "file-theirs", "file-unknown"},
        )
    assert {key: (file.attachment_id, file.filename) for key, file in found.items()} == {
        "file-mine": (mine, "file-mine.txt")
    }


@pytest.mark.parametrize("covered", [0, MANY - 4])
async def test_history_costs_what_is_sent_however_long_the_chat(sessions: Sessions, covered: int) -> None:
    """With and without a summary, only the newest entries of one index are read."""
    chat = await new_conversation(sessions)
    async with sessions.begin() as session:
        await session.execute(
            text(
                """
                INSERT INTO messages (id, tenant_id, chat_id, request_id, role, content, is_compressed, created_at)
                SELECT gen_random_uuid(), :tenant, :chat, gen_random_uuid(), 'user', 'x', n <= :covered,
                       now() - interval '2 days' + n * interval '1 second'
                FROM generate_series(1, :many) AS n
                """
            ),
            {"tenant": chat.tenant_id, "chat": chat.chat_id, "covered": covered, "many": MANY},
        )
        if covered:
            await session.execute(
                text(
                    """
                    INSERT INTO thread_summaries (id, tenant_id, chat_id, summary_text, summarized_up_to_created_at,
                                                  summarized_up_to_message_id, created_at, updated_at)
                    SELECT gen_random_uuid(), tenant_id, chat_id, 'Short.', created_at, id, now(), now()
                    FROM messages WHERE is_compressed ORDER BY created_at DESC LIMIT 1
                    """
                )
            )
    turn = await ask(chat)
    async with sessions.begin() as session:
        await session.execute(text("ANALYZE messages"))
    planned = await planner(sessions).plan(turn, counted=NO_TOOLS)
    assert len(planned.request.history) == (11 if covered == 0 else 6)

    explain = text(f"EXPLAIN (ANALYZE, FORMAT JSON) {HISTORY_SQL.text}").bindparams(
        *(bindparam(name, type_=Uuid) for name in ("tenant", "chat", "request"))
    )
    values = {"tenant": chat.tenant_id, "chat": chat.chat_id, "request": turn.request_id, "recent_limit": 10}
    async with sessions() as session:
        plan = (await session.scalar(explain, values))[0]["Plan"]
    nodes = nodes_of(plan)
    assert "Seq Scan" not in {node["Node Type"] for node in nodes}
    assert "ix_messages_history" in {node.get("Index Name") for node in nodes}
    assert all(node["Actual Rows"] + node.get("Rows Removed by Filter", 0) <= 12 for node in nodes)


def nodes_of(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *(node for child in plan.get("Plans", ()) for node in nodes_of(child))]

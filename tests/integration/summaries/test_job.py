"""The summary job on a real database: what it commits, when it does nothing, and what a death leaves behind."""

from __future__ import annotations

import asyncio
import dataclasses
import random

import pytest
from sqlalchemy import update

from shared.chats.tables import Chat
from shared.clock import SystemClock
from shared.db.engine import Sessions
from shared.messages.tables import Message as ChatMessage
from shared.outbox import messages as outbox
from shared.outbox.repository import Message
from shared.outbox.tables import OutboxMessage
from shared.settings import Settings, ThreadSummaryWorkerSettings
from shared.turns.lifecycle import TokenUsage
from tests.support.conversations import AnsweringProvider, Conversation, new_conversation, summary_job
from tests.support.killing import KilledAt, KilledError
from worker.outbox.handlers import RejectedMessageError
from worker.providers.base import ProviderError
from worker.summaries.job import EmptySummaryError

TEXTS = ("q0", "a0", "q1", "a1", "q2", "a2")
ANSWER = "<analysis>hm</analysis>\n<summary>\nShort.\n</summary>"
TOO_LONG = ProviderError("provider_error", "This model's maximum context length is 5 tokens")


def delivered(message: OutboxMessage, *, attempts: int = 0) -> Message:
    """What a handler gets of a message."""
    return Message(
        id=1,
        queue=message.queue,
        partition_key=message.partition_key,
        payload_type=message.payload_type,
        payload=message.payload,
        dedupe_key=None,
        attempts=attempts,
        created_at=message.created_at,
    )


def asked(provider: AnsweringProvider, index: int = -1) -> str:
    return provider.requests[index].history[-1].text


async def test_a_range_is_summarized_and_marked(sessions: Sessions) -> None:
    chat = await new_conversation(sessions, *TEXTS)
    provider = AnsweringProvider(ANSWER, usage=TokenUsage(100, 7))
    assert await summary_job(sessions, provider).update(chat.request(target=3))

    stored = await chat.summary()
    assert stored is not None
    assert (stored.summary_text, stored.token_estimate) == ("Short.", 7)
    assert stored.summarized_up_to_message_id == chat.places[3].message_id
    assert await chat.compressed() == [True] * 4 + [False] * 2
    assert "User: q0\n\nAssistant: a0\n\nUser: q1\n\nAssistant: a1\n\n" in asked(provider)
    assert "q2" not in asked(provider)


async def test_an_absurd_count_is_not_taken_for_the_length_of_the_summary(sessions: Sessions) -> None:
    chat = await new_conversation(sessions, *TEXTS)
    provider = AnsweringProvider(ANSWER, usage=TokenUsage(100, 3 * 10**9))
    assert await summary_job(sessions, provider).update(chat.request(target=3))
    stored = await chat.summary()
    assert stored is not None
    assert stored.token_estimate == 2  # of 6 bytes


async def test_the_usage_is_told_and_nobody_charged(sessions: Sessions) -> None:
    chat = await new_conversation(sessions, *TEXTS)
    request = chat.request(target=3)
    await summary_job(sessions, AnsweringProvider(ANSWER, usage=TokenUsage(100, 7))).update(request)
    (event,) = await chat.outgoing()
    assert event.queue == "usage_snapshot"
    assert event.dedupe_key == (f"{chat.tenant_id.hex}/thread_summary_update/{request.system_request_id.hex}")
    payload = event.payload
    assert (payload["requester_type"], payload["user_id"], payload["turn_id"]) == ("system", None, None)
    assert (payload["billing_outcome"], payload["committed_credits_micro"]) == ("system_task", 0)
    assert payload["usage"]["output_tokens"] == 7


async def test_an_existing_summary_is_merged(sessions: Sessions) -> None:
    chat = await new_conversation(sessions, *TEXTS)
    provider = AnsweringProvider("<summary>First.</summary>", "<summary>Second.</summary>")
    job = summary_job(sessions, provider)
    await job.update(chat.request(target=1))
    await job.update(chat.request(base=1, target=5))
    assert "<existing_summary>\nFirst.\n</existing_summary>" in asked(provider)
    assert "q0" not in asked(provider)
    stored = await chat.summary()
    assert stored is not None
    assert stored.summary_text == "Second."
    assert await chat.compressed() == [True] * 6
    assert len(await chat.outgoing()) == 2


async def test_late_double_and_disordered_deliveries_change_nothing(sessions: Sessions) -> None:
    """Whatever comes again, or after its time, finds the frontier elsewhere: one commit a range."""
    chat = await new_conversation(sessions, *TEXTS)
    job = summary_job(sessions, AnsweringProvider(ANSWER))
    first, rival, second = chat.request(target=1), chat.request(target=3), chat.request(base=1, target=3)
    assert not await job.update(second)  # before what it builds on
    assert await job.update(first)
    assert not await job.update(first)
    assert not await job.update(rival)
    assert await job.update(second)
    deliveries = [first, rival, second] * 3
    random.Random(7).shuffle(deliveries)
    assert [await job.update(request) for request in deliveries] == [False] * 9
    assert len(await chat.outgoing()) == 2
    assert await chat.compressed() == [True] * 4 + [False] * 2


async def test_of_concurrent_deliveries_one_commits(sessions: Sessions) -> None:
    chat = await new_conversation(sessions, *TEXTS)
    job = summary_job(sessions, AnsweringProvider(ANSWER))
    requests = [chat.request(target=3), chat.request(target=5), chat.request(target=3)]
    done = await asyncio.gather(*(job.update(request) for request in requests))
    assert sorted(done) == [False, False, True]
    assert len(await chat.outgoing()) == 1
    stored = await chat.summary()
    assert stored is not None
    assert stored.summarized_up_to_message_id == requests[done.index(True)].target.message_id


async def test_a_death_at_any_step_leaves_all_or_nothing(sessions: Sessions) -> None:
    """Killed wherever it waits, the job leaves either no trace or a whole commit; the next delivery completes it."""
    step = 0
    is_finished = False
    while not is_finished:
        step += 1
        chat = await new_conversation(sessions, *TEXTS)
        request = chat.request(target=3)
        job = summary_job(sessions, AnsweringProvider(ANSWER))
        try:
            await KilledAt(job.update(request), step=step)
            is_finished = True
        except KilledError:
            pass
        await _assert_all_or_nothing(chat)
        await summary_job(sessions, AnsweringProvider(ANSWER)).update(request)
        assert await chat.summary() is not None
        await _assert_all_or_nothing(chat)
    assert step > 5


async def _assert_all_or_nothing(chat: Conversation) -> None:
    covered = 0 if await chat.summary() is None else 4
    assert await chat.compressed() == [True] * covered + [False] * (6 - covered)
    assert len(await chat.outgoing()) == (covered > 0)


async def test_a_deleted_chat_is_left_alone(sessions: Sessions) -> None:
    chat = await new_conversation(sessions, *TEXTS)
    async with sessions.begin() as session:
        await session.execute(update(Chat).where(Chat.id == chat.chat_id).values(deleted_at=SystemClock().now()))
    provider = AnsweringProvider(ANSWER)
    assert not await summary_job(sessions, provider).update(chat.request(target=3))
    assert provider.requests == []


async def test_what_is_deleted_or_covered_is_not_told(sessions: Sessions) -> None:
    chat = await new_conversation(sessions, *TEXTS)
    async with sessions.begin() as session:
        gone, covered = chat.places[0].message_id, chat.places[1].message_id
        await session.execute(update(ChatMessage).where(ChatMessage.id == gone).values(deleted_at=SystemClock().now()))
        await session.execute(update(ChatMessage).where(ChatMessage.id == covered).values(is_compressed=True))
    await chat.say("instructions", role="system")
    provider = AnsweringProvider(ANSWER)
    await summary_job(sessions, provider).update(chat.request(target=6))
    assert all(text not in asked(provider) for text in ("q0", "a0", "instructions"))
    assert "q1" in asked(provider)


async def test_an_empty_range_asks_nobody(sessions: Sessions) -> None:
    chat = await new_conversation(sessions, *TEXTS)
    provider = AnsweringProvider(ANSWER)
    job = summary_job(sessions, provider)
    await job.update(chat.request(target=3))
    async with sessions.begin() as session:
        await session.execute(update(ChatMessage).where(ChatMessage.chat_id == chat.chat_id).values(is_compressed=True))
    assert not await job.update(chat.request(base=3, target=5))
    assert len(provider.requests) == 1


async def test_a_model_whose_context_is_too_small_is_told_less(sessions: Sessions) -> None:
    """The oldest go, a fifth and at least two at a time, twice at most."""
    chat = await new_conversation(sessions, *TEXTS)
    provider = AnsweringProvider(TOO_LONG, TOO_LONG, ANSWER)
    assert await summary_job(sessions, provider).update(chat.request(target=5))
    assert [sum(text in asked(provider, n) for text in TEXTS) for n in range(3)] == [6, 4, 2]
    assert await chat.compressed() == [True] * 6


@pytest.mark.parametrize("answer", [TOO_LONG, ProviderError("provider_timeout", "late"), "", "<summary>cut"])
async def test_a_failure_changes_nothing(sessions: Sessions, answer: str | ProviderError) -> None:
    chat = await new_conversation(sessions, *TEXTS)
    await summary_job(sessions, AnsweringProvider("<summary>Old.</summary>")).update(chat.request(target=1))
    with pytest.raises((ProviderError, EmptySummaryError)):
        await summary_job(sessions, AnsweringProvider(answer)).update(chat.request(base=1, target=5))
    stored = await chat.summary()
    assert stored is not None
    assert stored.summary_text == "Old."
    assert await chat.compressed() == [True] * 2 + [False] * 4
    assert len(await chat.outgoing()) == 1


async def test_the_model_and_its_instructions(sessions: Sessions) -> None:
    """The configured model, else the chat's, else its tier's default; the request is the system's."""
    settings = Settings(thread_summary_worker=ThreadSummaryWorkerSettings(summary_model_id="gpt-5-mini"))
    models = []
    for chosen, model in ((None, "gpt-5.2"), (None, "gpt-off"), (settings, "gpt-5.2")):
        chat = await new_conversation(sessions, *TEXTS, model=model)
        provider = AnsweringProvider(ANSWER)
        await summary_job(sessions, provider, chosen).update(chat.request(target=3))
        request = provider.requests[0]
        models.append(request.model.id)
        assert (request.request_kind, request.tools) == ("summary", ())
        assert request.max_output_tokens == request.model.max_output_tokens
        assert request.instructions == Settings().thread_summary_worker.summary_system_prompt
    assert models == ["gpt-5.2", "gpt-5.2", "gpt-5-mini"]


async def test_a_message_is_handled_as_it_was_written(sessions: Sessions) -> None:
    chat = await new_conversation(sessions, *TEXTS)
    places = [(place.created_at, place.message_id) for place in chat.places]
    message = outbox.thread_summary(chat.chat_id, tenant_id=chat.tenant_id, base=None, target=places[3])
    await summary_job(sessions, AnsweringProvider(ANSWER)).handle(delivered(message))
    assert await chat.compressed() == [True] * 4 + [False] * 2


@pytest.mark.parametrize(
    "change",
    [{"base_frontier_message_id": "00000000-0000-4000-8000-000000000001"}, {"chat_id": "?"}, {"tenant_id": None}],
)
async def test_a_message_that_makes_no_sense_is_rejected(sessions: Sessions, change: dict[str, str | None]) -> None:
    chat = await new_conversation(sessions, *TEXTS)
    target = (chat.places[3].created_at, chat.places[3].message_id)
    stored = outbox.thread_summary(chat.chat_id, tenant_id=chat.tenant_id, base=None, target=target)
    message = dataclasses.replace(delivered(stored), payload=stored.payload | change)
    with pytest.raises(RejectedMessageError):
        await summary_job(sessions, AnsweringProvider(ANSWER)).handle(message)


async def test_giving_up_is_counted_once(sessions: Sessions) -> None:
    """The last failure is the one after which the old summary stays for good."""
    chat = await new_conversation(sessions, *TEXTS)
    target = (chat.places[3].created_at, chat.places[3].message_id)
    stored = outbox.thread_summary(chat.chat_id, tenant_id=chat.tenant_id, base=None, target=target)
    job = summary_job(sessions, AnsweringProvider("<summary>cut"))
    for attempts in range(job.max_attempts):
        assert job.metrics.registry.get_sample_value("test_summary_fallback_total") == 0
        with pytest.raises(EmptySummaryError):
            await job.handle(delivered(stored, attempts=attempts))
    assert job.metrics.registry.get_sample_value("test_summary_fallback_total") == 1

"""Five hundred turns of one chat: what the model is told stays within bounds, and so does what it costs."""

from __future__ import annotations

import statistics

from shared.db.engine import Sessions
from shared.messages.repository import MessageRepository
from shared.summaries.trigger import Frontier
from shared.turns.context import SUMMARY_PREAMBLE
from tests.support.long_conversation import MAX_INPUT, MAX_OUTPUT, WINDOW, LongConversation, TurnRecord

TURNS = 500
RECENT_LIMIT = 10
AVAILABLE = min(WINDOW - MAX_OUTPUT - 50, MAX_INPUT)


def marks_sent(record: TurnRecord) -> list[str]:
    """The first words of the messages that were sent, the summary aside."""
    texts = [message.text for message in record.planned.request.history]
    return [text.partition(" ")[0] for text in texts if not text.startswith(SUMMARY_PREAMBLE)]


async def test_a_long_conversation_stays_within_its_budget(sessions: Sessions) -> None:
    conversation = await LongConversation.begin(sessions)
    records = [record async for record in conversation.turns(TURNS)]
    async with sessions() as session:
        stored = await MessageRepository(session).list_visible(
            conversation.chat.chat_id,
            tenant_id=conversation.chat.tenant_id,
            narrow=lambda statement: statement.order_by("created_at", "id"),
        )
    order = [mark for number in range(TURNS) for mark in (f"q{number}.", f"a{number}.")]
    assert [message.content.partition(" ")[0] for message in stored] == order  # none is lost from the list
    places = {message.content.partition(" ")[0]: Frontier(message.created_at, message.id) for message in stored}

    for record in records:
        assert record.planned.use.assembled_tokens <= AVAILABLE
        sent = marks_sent(record)
        newest = order.index(f"q{record.number}.")
        assert sent == order[newest - len(sent) + 1 : newest + 1]  # the newest ones, none between them missing
        assert len(sent) <= RECENT_LIMIT + 1
        summary = record.summary
        has_summary = record.planned.request.history[0].text.startswith(SUMMARY_PREAMBLE)
        assert has_summary == (summary is not None)
        if summary is not None:
            frontier = Frontier(summary.summarized_up_to_created_at, summary.summarized_up_to_message_id)
            assert all(places[mark] > frontier for mark in sent)  # what it covers is never sent again

    # Every turn that left a message out asked for a summary, and no other did, but for the first to fill its share.
    for record in records:
        use = record.planned.use
        is_full = use.assembled_tokens >= (WINDOW - MAX_OUTPUT) * 80 // 100
        assert record.is_summary_asked_for == (use.messages_truncated or (record.summary is None and is_full))
    frontiers = {record.summary.summarized_up_to_message_id for record in records if record.summary}
    assert len(frontiers) > 5

    early = statistics.mean(record.planned.use.assembled_tokens for record in records[50:150])
    late = statistics.mean(record.planned.use.assembled_tokens for record in records[-100:])
    assert late < early * 1.2

"""What a model is asked for a summary."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shared.turns.context import PlannedMessage
from worker.summaries.prompt import cut, summary_question, without_oldest

MESSAGES = (PlannedMessage("user", "Where?"), PlannedMessage("assistant", "Here."))


def test_a_first_summary() -> None:
    question = summary_question(MESSAGES, existing=None, content_limit=0)
    assert question.startswith("Summarize the following conversation.\n\nUser: Where?\n\nAssistant: Here.\n\n")
    assert question.index("Here.") < question.index("<analysis>") < question.index("<summary>")
    assert all(name in question for name in ("Purpose", "Key information", "Requests", "Open items", "Current topic"))


def test_a_renewed_summary() -> None:
    question = summary_question(MESSAGES, existing="They met.", content_limit=0)
    assert "<existing_summary>\nThey met.\n</existing_summary>" in question
    assert question.index("They met.") < question.index("User: Where?")
    assert "Merge" in question


def test_long_messages_are_cut() -> None:
    assert (cut("abcd", 3), cut("abc", 3), cut("abcd", 0)) == ("abc...", "abc", "abcd")
    assert "User: Wh...\n" in summary_question(MESSAGES, existing=None, content_limit=2)


@given(st.integers(0, 100))
def test_the_oldest_go_and_two_stay(count: int) -> None:
    messages = [PlannedMessage("user", str(n)) for n in range(count)]
    kept = without_oldest(messages)
    if count <= 2:
        assert kept is None
    else:
        assert kept == messages[min(max(2, -(-count // 5)), count - 2) :]
        assert 2 <= len(kept) < count

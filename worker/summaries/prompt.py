"""What a model is asked when it is to summarize a conversation. Pure.

The tags come in the closing instructions and around the old summary only, so that a model which merely repeats the
beginning of its question gives no answer that looks like one.
"""

from __future__ import annotations

from collections.abc import Sequence

from shared.turns.context import PlannedMessage

_MERGE = (
    "A summary of the earlier conversation exists. Merge it with the new messages below into one summary that stays"
    " concise. Where room is short, the current topic and recent decisions come first, then preferences and"
    " corrections, then older facts."
)
_BEGIN = "Summarize the following conversation."
_NEW_MESSAGES = "New messages:"
_STRUCTURE = """\
Reason first, inside <analysis> and </analysis>. Then give the result inside <summary> and </summary>, in five sections:
1. Purpose: what the conversation is for.
2. Key information: facts, decisions and results.
3. Requests and preferences: what the user asked for, prefers or has corrected.
4. Open items: what is unanswered or unfinished.
5. Current topic: what was being discussed last."""
_SPEAKERS = {"user": "User", "assistant": "Assistant"}


def summary_question(messages: Sequence[PlannedMessage], *, existing: str | None, content_limit: int) -> str:
    """The user text of the request.

    Args:
        messages: oldest first.
        existing: the summary that covers what came before them.
        content_limit: characters of each message that are shown; 0 for all.
    """
    told = [f"{_SPEAKERS[message.role]}: {cut(message.text, content_limit)}" for message in messages]
    if existing is None:
        beginning = [_BEGIN]
    else:
        beginning = [_MERGE, f"<existing_summary>\n{existing}\n</existing_summary>", _NEW_MESSAGES]
    return "\n\n".join((*beginning, *told, _STRUCTURE))


def cut(text: str, limit: int) -> str:
    return text if limit == 0 or len(text) <= limit else f"{text[:limit]}..."


def without_oldest(messages: Sequence[PlannedMessage]) -> list[PlannedMessage] | None:
    """A fifth less, two at least, for a model whose context is too small; two stay. None if none can go."""
    dropped = min(max(2, -(-len(messages) // 5)), len(messages) - 2)
    return list(messages[dropped:]) if dropped > 0 else None

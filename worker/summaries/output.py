"""What of a model's answer is the summary.

The model is asked to think in an `<analysis>` block and to answer in a `<summary>` block. The analysis is dropped and
the summary's body taken; an answer without either tag is the summary itself. Tags that do not match leave nothing to
trust: the answer was cut, or is about something else. One pass over the text, whatever it holds.
"""

from __future__ import annotations

import re
from itertools import pairwise

_TAG = re.compile(r"<(/?)(analysis|summary)>", re.IGNORECASE)
_BLANK_LINES = re.compile(r"\n{3,}")


def parse_summary(output: str) -> str:
    """The summary in `output`, empty if there is none; never with a tag in it."""
    text = _without_analysis(output)
    tags = list(_TAG.finditer(text))
    if not tags:
        return _tidy(text)
    for opening, closing in pairwise(tags):
        if _kind(opening) == "summary" and _kind(closing) == "/summary":
            return _tidy(text[opening.end() : closing.start()])
    return ""


def _without_analysis(text: str) -> str:
    kept: list[str] = []
    copied_to = 0
    opened_at: int | None = None
    for tag in _TAG.finditer(text):
        kind = _kind(tag)
        if kind == "analysis" and opened_at is None:
            opened_at = tag.start()
        elif kind == "/analysis" and opened_at is not None:
            kept.append(text[copied_to:opened_at])
            copied_to, opened_at = tag.end(), None
    return "".join((*kept, text[copied_to:]))


def _kind(tag: re.Match[str]) -> str:
    return f"{tag[1]}{tag[2].lower()}"


def _tidy(text: str) -> str:
    return _BLANK_LINES.sub("\n\n", text).strip()

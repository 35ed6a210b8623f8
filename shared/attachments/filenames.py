"""What a file is called: the user's name for it, made harmless, and ours, under which the provider stores it."""

from __future__ import annotations

import re
import unicodedata
from typing import Final
from uuid import UUID

MAX_CHARS: Final = 255
DEFAULT_NAME: Final = "upload"

_SEPARATORS: Final = re.compile(r"[/\\]")
# Nothing that a name needs, and all of it can mislead who reads it: control characters, halves of surrogate pairs,
# separators of lines and paragraphs, and what turns the direction of writing.
_HIDDEN: Final = frozenset({"Cc", "Cs", "Zl", "Zp"})
_TURNS: Final = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def safe_filename(given: str | None) -> str:
    """The last component of the name, without characters that cannot be seen, at most `MAX_CHARS` characters long."""
    last = _SEPARATORS.split(given or "")[-1]
    name = "".join(char for char in last if not _is_hidden(char)).strip()
    return _cut(name) if name.strip(".") else DEFAULT_NAME


def extension_of(filename: str) -> str:
    """What follows the last dot; empty if there is nothing before or behind it."""
    stem, _, extension = filename.rpartition(".")
    return extension if stem else ""


def provider_filename(chat_id: UUID, attachment_id: UUID, extension: str) -> str:
    """Tells whose the file is when there is nothing else to tell by."""
    return f"{chat_id}_{attachment_id}.{extension}"


def _is_hidden(char: str) -> bool:
    return char in _TURNS or unicodedata.category(char) in _HIDDEN


def _cut(name: str) -> str:
    if len(name) <= MAX_CHARS:
        return name
    ending = f".{extension_of(name)}"
    if len(ending) == 1 or len(ending) >= MAX_CHARS:
        return name[:MAX_CHARS]
    return name[: -len(ending)][: MAX_CHARS - len(ending)] + ending

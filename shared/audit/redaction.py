"""Takes secrets out of what users and models write, before it becomes part of an audit event.

What is found is replaced by `[REDACTED]`, where a name stands before a value the value only. In doubt it is taken out:
an audit event that lacks a harmless number can still be used, a secret that was sent cannot be called back.

Every pattern runs in linear time on any text. Three things see to that: quantifiers are possessive (`++`, `*+`) or
bounded, a run of characters is entered at its beginning only (the lookbehinds), and what needs a closing mark matches
to the end of line or text where the mark is missing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

REDACTED: Final = "[REDACTED]"
TRUNCATED: Final = "…[TRUNCATED]"
MAX_FIELD_BYTES: Final = 8_192

# The sign and the value behind a name; quoted, or up to white space or the next parameter of a URL.
_IS: Final = r"(?:\\?[\"'])?\s{0,4}+(?:=>|:=|[=:])\s{0,4}+"
_VALUE: Final = r"(?:\\?\"[^\"\n]*+\"?|\\?'[^'\n]*+'?|[^\s\"'&]++)"
_TOKEN: Final = r"[A-Za-z0-9_-]"  # noqa: S105 (the characters of one)
_AZURE: Final = (
    r"(?<![A-Za-z0-9+/])[A-Za-z0-9+/]{86}==",  # storage, service bus
    r"(?<![A-Za-z0-9])[A-Za-z0-9]{52}JQQJ99[A-Za-z0-9]{26}(?![A-Za-z0-9])",  # AI services
    r"(?<![A-Za-z0-9-])[0-9A-Fa-f]{32}(?![A-Za-z0-9-])",  # AI services, the older form
    r"(?<![A-Za-z0-9_.~-])[A-Za-z0-9_.-]{3}[0-9]Q~[A-Za-z0-9_.~-]{31,40}+",  # a registered application
    r"(?<=[?&]sig=)[A-Za-z0-9%+/=]{20,}+",  # a shared access signature
    rf"(?i:(?<=AccountKey)|(?<=SharedAccessKey)|(?<=Subscription-Key)|(?<=(?<!x-)api-key)){_IS}{_VALUE}",
)


@dataclass(frozen=True, slots=True)
class _Pattern:
    name: str
    regex: re.Pattern[str]
    replacement: str = REDACTED


# In this order: what is a whole of its own goes first, then values by their names, last what merely looks encoded.
_PATTERNS: Final = (
    _Pattern(
        "pem_private_key",
        re.compile(
            r"-----BEGIN [A-Z0-9 ]{0,40}?PRIVATE KEY(?: BLOCK)?-----"
            r".*?(?:-----END [A-Z0-9 ]{0,40}?PRIVATE KEY(?: BLOCK)?-----|\Z)",
            re.DOTALL,
        ),
    ),
    _Pattern(
        "jwt",
        re.compile(
            rf"(?<!{_TOKEN})eyJ{_TOKEN}{{5,}}+\.{_TOKEN}*+\.{_TOKEN}*+(?:\.{_TOKEN}*+\.{_TOKEN}*+)?+",
        ),
    ),
    _Pattern("bearer", re.compile(r"(?i)(\bbearer\s{1,4}+)[A-Za-z0-9._~+/=-]{4,}+"), rf"\g<1>{REDACTED}"),
    _Pattern("sk_key", re.compile(rf"(?<![A-Za-z0-9])sk-{_TOKEN}{{8,}}+")),
    _Pattern(
        "aws_key_id",
        re.compile(r"(?<![A-Za-z0-9])A(?:KIA|SIA|BIA|CCA|GPA|IDA|IPA|NPA|NVA|PKA|ROA|SCA)[A-Z0-9]{16}(?![A-Za-z0-9])"),
    ),
    _Pattern("azure_key", re.compile("|".join(_AZURE))),
    _Pattern(
        "api_key",
        re.compile(rf"(?i)(api[_-]?key{_IS}|client[_-]?secret{_IS}){_VALUE}"),
        rf"\g<1>{REDACTED}",
    ),
    _Pattern("password", re.compile(rf"(?i)((?:password|passwd|pwd){_IS}){_VALUE}"), rf"\g<1>{REDACTED}"),
    _Pattern("base64", re.compile(r"(?<![A-Za-z0-9+/_-])[A-Za-z0-9+/_-]{201,}+={0,2}")),
)
PATTERN_NAMES: Final = tuple(pattern.name for pattern in _PATTERNS)


@dataclass(frozen=True, slots=True)
class Redacted:
    text: str
    hits: Mapping[str, int]
    """How often each pattern was found, for those that were."""


def redact(text: str) -> Redacted:
    """`text` without what looks like a secret."""
    hits = {}
    for pattern in _PATTERNS:
        text, count = pattern.regex.subn(pattern.replacement, text)
        if count:
            hits[pattern.name] = count
    return Redacted(text, hits)


def redact_field(text: str) -> Redacted:
    """`text` as a member of an audit event: redacted, then cut. The order matters: a cut could halve a secret, and
    half of one is not recognized."""
    redacted = redact(text)
    return Redacted(cut(redacted.text), redacted.hits)


def cut(text: str, *, limit: int = MAX_FIELD_BYTES) -> str:
    """At most `limit` bytes of UTF-8 and no half character, with `TRUNCATED` after them where something is missing."""
    encoded = text.encode("utf-8", "replace")
    if len(encoded) <= limit:
        return text
    return encoded[:limit].decode("utf-8", "ignore") + TRUNCATED

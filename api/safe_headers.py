"""Response headers that keep browsers from doing what no answer of this service is meant for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

Headers = list[tuple[bytes, bytes]]

_UNLESS_SAID: Final[Headers] = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    # Answers are one user's own, and a proxy or a shared browser must not keep them.
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
]


def add_safe_headers(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """`headers`, whose own word counts, with what is missing."""
    given = list(headers)
    names = {name.lower() for name, _ in given}
    return [*given, *(header for header in _UNLESS_SAID if header[0] not in names)]

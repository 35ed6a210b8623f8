"""What may leave the product of a text that a provider wrote.

Error texts lose provider ids, URLs and credentials, in this order, before a client sees them; the raw text, without
credentials, is for operators. Answers, tool output and citations are not touched by that: they only lose what the
database and JSON cannot carry (`clean_text`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

CREDENTIAL_MARK = "[credential]"
MIN_SECRET_LENGTH = 8
"""A shorter secret is not looked for by value: it would tear ordinary words apart."""

# A digit is required, so that words such as file_search survive. ASCII word boundaries find an id behind any letter
# that an id cannot hold.
_PROVIDER_ID = re.compile(
    r"\b(?:resp|msg|chatcmpl|cmpl|batch|file|assistant|asst|vs|req|run|thread|container|cntr|call|fc|ws|ci|fs|rs|conv"
    r"|org|proj|item|evt)[_-](?=[A-Za-z0-9_-]*\d)[A-Za-z0-9_-]{2,}",
    re.ASCII,
)
_URL = re.compile(r"[a-z][a-z0-9+.-]{0,30}://[^\s\"'<>]+", re.IGNORECASE | re.ASCII)
# Keys are sometimes quoted half masked (sk-ab***yz), and an earlier step may have replaced a part of one.
_CREDENTIAL = re.compile(r"\bsk-(?:[\w*-]|\[provider_id\])+|\bbearer\s+[^\s\"',;<>]+", re.IGNORECASE | re.ASCII)


def sanitize_error(text: str) -> str:
    """`text` without provider ids, URLs and credentials."""
    text = _PROVIDER_ID.sub("[provider_id]", clean_text(text))
    return _CREDENTIAL.sub(CREDENTIAL_MARK, _URL.sub("[url]", text))


def remove_credentials(text: str) -> str:
    """`text` without keys and bearer tokens, otherwise as the provider wrote it."""
    return _CREDENTIAL.sub(CREDENTIAL_MARK, clean_text(text))


def remove_secret(text: str, secret: str | None) -> str:
    """`text` without `secret` itself, whatever it looks like: some proxies repeat the key they refuse."""
    if secret is None or len(secret) < MIN_SECRET_LENGTH:
        return text
    return text.replace(secret, CREDENTIAL_MARK)


def clean_text(text: str) -> str:
    """`text` without U+0000, unpaired surrogates as U+FFFD; what PostgreSQL and UTF-8 can hold."""
    if "\x00" in text:
        text = text.replace("\x00", "")
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def clean_json(value: Any) -> Any:
    """A copy of a decoded JSON value in which every string, keys included, is `clean_text`."""
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, Mapping):
        return {clean_text(key): clean_json(member) for key, member in value.items()}
    if isinstance(value, list):
        return [clean_json(member) for member in value]
    return value

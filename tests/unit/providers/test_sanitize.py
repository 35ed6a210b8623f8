"""Error texts leave without ids, URLs and credentials; ordinary words stay."""

from __future__ import annotations

import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.providers.sanitize import clean_json, clean_text, remove_credentials, remove_secret, sanitize_error

PREFIXES = [
    "resp",
    "msg",
    "chatcmpl",
    "cmpl",
    "batch",
    "file",
    "assistant",
    "asst",
    "vs",
    "req",
    "run",
    "thread",
    "container",
    "cntr",
    "call",
    "fc",
    "ws",
    "ci",
    "fs",
    "rs",
    "conv",
    "org",
    "proj",
    "item",
    "evt",
]
ID_CHARS = string.ascii_letters + string.digits + "_-"


@pytest.mark.parametrize(
    ("text", "sanitized"),
    [
        ("No such file: file-abc123.", "No such file: [provider_id]."),
        ("resp_68f0a1 and vs_1a2b", "[provider_id] and [provider_id]"),
        (
            "the file_search tool and file-based code_interpreter",
            "the file_search tool and file-based code_interpreter",
        ),
        ("see https://platform.openai.com/docs?x=1#y now", "see [url] now"),
        ("at https://host/v1/files/file-abc123/content", "at [url]"),
        ("Incorrect API key provided: sk-ab***************yz.", "Incorrect API key provided: [credential]."),
        ("key sk-proj-Ab1_Cd-2 refused", "key [credential] refused"),
        ("Authorization: Bearer abc.def-123", "Authorization: [credential]"),
        ("authorization: bearer abc", "authorization: [credential]"),
        ("nul\x00led \ud800", "nulled \ufffd"),
        ("", ""),
    ],
)
def test_table(text: str, sanitized: str) -> None:
    assert sanitize_error(text) == sanitized


@given(
    prefix=st.sampled_from(PREFIXES),
    separator=st.sampled_from("_-"),
    head=st.text(ID_CHARS, max_size=10),
    digit=st.sampled_from(string.digits),
    tail=st.text(ID_CHARS, min_size=1, max_size=10),
    around=st.text(st.characters(exclude_characters=ID_CHARS), max_size=5),
)
def test_no_id_with_a_digit_survives(
    prefix: str, separator: str, head: str, digit: str, tail: str, around: str
) -> None:
    provider_id = f"{prefix}{separator}{head}{digit}{tail}"
    assert provider_id not in sanitize_error(f"{around}{provider_id}{around}")


@given(prefix=st.sampled_from(PREFIXES), separator=st.sampled_from("_-"), word=st.text(string.ascii_lowercase))
def test_words_survive(prefix: str, separator: str, word: str) -> None:
    assert sanitize_error(f"{prefix}{separator}{word}") == f"{prefix}{separator}{word}"


@given(st.text(st.characters(), max_size=200))
def test_any_text_is_encodable_afterwards(text: str) -> None:
    for cleaned in (sanitize_error(text), remove_credentials(text), clean_text(text)):
        assert "\x00" not in cleaned
        assert not re.search("[\ud800-\udfff]", cleaned)
        cleaned.encode()


@given(st.text(st.characters(codec="utf-8", exclude_characters="\x00")))
def test_clean_text_leaves_clean_text_alone(text: str) -> None:
    assert clean_text(text) == text


def test_operators_keep_ids_but_no_credentials() -> None:
    assert remove_credentials("file-a1 at https://x/y with sk-1234") == "file-a1 at https://x/y with [credential]"


def test_a_secret_is_found_by_its_value() -> None:
    assert remove_secret("api-key: hunter2hunter2", "hunter2hunter2") == "api-key: [credential]"
    assert remove_secret("a secret too short to look for", "too") == "a secret too short to look for"
    assert remove_secret("nothing to hide", None) == "nothing to hide"


def test_clean_json_reaches_every_string() -> None:
    assert clean_json({"a\x00": ["b\x00", {"c": "\ud800", "d": 1.5}], "e": None}) == {
        "a": ["b", {"c": "\ufffd", "d": 1.5}],
        "e": None,
    }

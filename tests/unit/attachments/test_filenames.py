from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.attachments.filenames import MAX_CHARS, extension_of, safe_filename

SEPARATORS = "/\\\u2028"


@pytest.mark.parametrize(
    ("given_name", "safe"),
    [
        (None, "upload"),
        ("", "upload"),
        ("  ", "upload"),
        ("..", "upload"),
        ("../", "upload"),
        ("notes.txt", "notes.txt"),
        ("../../etc/passwd", "passwd"),
        ("C:\\temp\\notes.txt", "notes.txt"),
        ("a\x00b\r\nc.txt", "abc.txt"),
        ("invoice\u202efdp.exe", "invoicefdp.exe"),
        ("naïve — 数.md", "naïve — 数.md"),
        ("\u06a9\u200c\u062f.txt", "\u06a9\u200c\u062f.txt"),
        ("x" * 4096 + ".pdf", "x" * 251 + ".pdf"),
        ("x" * 4096, "x" * 255),
        ("x." + "y" * 4096, "x." + "y" * 253),
        ("." + "y" * 4096, "." + "y" * 254),
    ],
)
def test_names_become_harmless(given_name: str | None, safe: str) -> None:
    assert safe_filename(given_name) == safe


@given(st.text(alphabet=st.one_of(st.characters(), st.sampled_from("/\\.\x00\u202e")), max_size=600))
def test_whatever_is_given_the_name_can_be_stored_and_shown(given_name: str) -> None:
    name = safe_filename(given_name)
    assert 0 < len(name) <= MAX_CHARS
    assert not set(name) & set(SEPARATORS)
    assert all(unicodedata.category(char) not in ("Cc", "Cs") for char in name)
    assert safe_filename(name) == name or name != name.strip()
    name.encode()


@given(st.text("ab", max_size=600), st.text("xyz", min_size=1, max_size=20))
def test_a_cut_keeps_the_extension(stem: str, extension: str) -> None:
    assert extension_of(safe_filename(f"a{stem}.{extension}")) == extension

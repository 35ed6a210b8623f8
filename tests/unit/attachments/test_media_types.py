from __future__ import annotations

import pytest

from shared.attachments.media_types import MEDIA_TYPES, media_type_of

XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"


@pytest.mark.parametrize(
    ("declared", "filename", "taken_as"),
    [
        ("text/plain", "a.txt", "text/plain"),
        ("Text/Plain; charset=UTF-8", "a.txt", "text/plain"),
        ("text/plain", "a.zip", "text/plain"),
        ("application/pdf", "a.zip", "application/pdf"),
        ("application/octet-stream", "a.PDF", "application/pdf"),
        ("application/octet-stream;x=y", "a.mjs", "text/javascript"),
        ("application/octet-stream", "sums.xlsx", XLSX),
        ("application/octet-stream", "rows.csv", "text/plain"),
        ("text/csv", "rows.csv", "text/plain"),
        ("application/octet-stream", "a.zip", None),
        ("application/octet-stream", "pdf", None),
        ("application/octet-stream", "", None),
        ("application/zip", "a.pdf", None),
        ("image/svg+xml", "a.png", None),
        ("nonsense", "a.txt", None),
    ],
)
def test_the_declared_type_and_the_name_decide(declared: str, filename: str, taken_as: str | None) -> None:
    found = media_type_of(declared, filename, allow_csv=True)
    assert (found and found.content_type) == taken_as


@pytest.mark.parametrize("declared", ["text/csv", "application/octet-stream"])
def test_csv_is_taken_only_where_it_is_allowed(declared: str) -> None:
    assert media_type_of(declared, "rows.csv", allow_csv=False) is None


def test_what_files_are_for() -> None:
    purposes = {(media.kind, media.for_file_search, media.for_code_interpreter) for media in MEDIA_TYPES.values()}
    assert purposes == {("document", True, False), ("document", False, True), ("image", False, False)}
    assert [media.content_type for media in MEDIA_TYPES.values() if media.for_code_interpreter] == [XLSX]
    assert {media.extension for media in MEDIA_TYPES.values() if media.kind == "image"} == {"png", "jpg", "webp", "gif"}


def test_no_extension_tells_two_types() -> None:
    extensions = [extension for media in MEDIA_TYPES.values() for extension in media.extensions]
    assert len(extensions) == len(set(extensions))

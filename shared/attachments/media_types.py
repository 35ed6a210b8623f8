"""Which files are taken, and what each is for. Only the declared type and the name count; nobody looks inside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from shared.attachments.filenames import extension_of

Kind = Literal["document", "image"]

UNKNOWN_TYPE: Final = "application/octet-stream"
CSV: Final = "text/csv"
_OFFICE: Final = "application/vnd.openxmlformats-officedocument"


@dataclass(frozen=True, slots=True)
class MediaType:
    """Attributes:
    extensions: by which a file of the type is known; the first is what it is called at the provider.
    """

    content_type: str
    extensions: tuple[str, ...]
    kind: Kind = "document"
    for_file_search: bool = True
    for_code_interpreter: bool = False

    @property
    def extension(self) -> str:
        return self.extensions[0]


def _image(content_type: str, *extensions: str) -> MediaType:
    return MediaType(content_type, extensions, "image", for_file_search=False)


PLAIN_TEXT: Final = MediaType("text/plain", ("txt",))
SPREADSHEET: Final = MediaType(
    f"{_OFFICE}.spreadsheetml.sheet", ("xlsx",), for_file_search=False, for_code_interpreter=True
)

MEDIA_TYPES: Final[Mapping[str, MediaType]] = {
    media.content_type: media
    for media in (
        MediaType("application/pdf", ("pdf",)),
        PLAIN_TEXT,
        MediaType("text/markdown", ("md", "markdown")),
        MediaType("text/html", ("html", "htm")),
        MediaType(f"{_OFFICE}.wordprocessingml.document", ("docx",)),
        MediaType(f"{_OFFICE}.presentationml.presentation", ("pptx",)),
        MediaType("application/json", ("json",)),
        MediaType("text/x-python", ("py",)),
        MediaType("text/x-java", ("java",)),
        MediaType("text/javascript", ("js", "mjs")),
        MediaType("text/typescript", ("ts", "mts")),
        MediaType("text/x-go", ("go",)),
        MediaType("text/x-csharp", ("cs",)),
        MediaType("text/x-ruby", ("rb",)),
        MediaType("text/x-rust", ("rs",)),
        MediaType("text/x-sql", ("sql",)),
        SPREADSHEET,
        _image("image/png", "png"),
        _image("image/jpeg", "jpg", "jpeg"),
        _image("image/webp", "webp"),
        _image("image/gif", "gif"),
    )
}

_BY_EXTENSION: Final[Mapping[str, str]] = {
    extension: media.content_type for media in MEDIA_TYPES.values() for extension in media.extensions
} | {"csv": CSV}


def media_type_of(declared: str, filename: str, *, allow_csv: bool) -> MediaType | None:
    """The type under which the file is taken; None if it is not.

    Args:
        declared: the value of a Content-Type header; one that says nothing leaves it to the name.
        allow_csv: whether CSV is taken, as the plain text that it is.
    """
    content_type = declared.partition(";")[0].strip().lower()
    if content_type == UNKNOWN_TYPE:
        content_type = _BY_EXTENSION.get(extension_of(filename).lower(), UNKNOWN_TYPE)
    if content_type == CSV and allow_csv:
        return PLAIN_TEXT
    return MEDIA_TYPES.get(content_type)

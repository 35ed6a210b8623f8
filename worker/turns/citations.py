"""What clients are told of the sources of an answer: the provider's annotations as citation items. Pure.

    url_citation   -> web: title and url, which must be http or https
    file_citation  -> file: the attachment and its name; a file that is not among the chat's is left out

`snippet` is the annotation's own text, else the part of the answer that it points at, else empty. `span` says where in
the answer, if the annotation does. Other annotations mean nothing to clients. An answer that was cut cites nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from worker.providers.base import Completed
from worker.turns.files import CitedFile

Item = Mapping[str, Any]


def cited_file_ids(completed: Completed) -> frozenset[str]:
    """The provider's ids that have to be looked up before `citations_of`."""
    if completed.incomplete_reason is not None:
        return frozenset()
    return frozenset(filter(None, map(_file_id, completed.annotations)))


def citations_of(completed: Completed, *, answer: str, files: Mapping[str, CitedFile]) -> tuple[Item, ...]:
    """The items of the answer, in the provider's order.

    Args:
        files: the chat's, by the provider's id.
    """
    if completed.incomplete_reason is not None:
        return ()
    items = (_item(annotation, answer, files) for annotation in completed.annotations)
    return tuple(item for item in items if item is not None)


def count_by_source(items: Sequence[Item]) -> Mapping[str, int]:
    sources = [item["source"] for item in items]
    return {source: sources.count(source) for source in dict.fromkeys(sources)}


def _item(annotation: Item, answer: str, files: Mapping[str, CitedFile]) -> Item | None:
    if annotation.get("type") == "url_citation":
        url = _text(annotation.get("url"))
        if not _is_web(url):
            return None
        return {"source": "web", "title": _text(annotation.get("title")) or url, "url": url} | _place(
            annotation, answer
        )
    file = files.get(_file_id(annotation))
    if file is None:
        return None
    return {"source": "file", "title": file.filename, "attachment_id": str(file.attachment_id)} | _place(
        annotation, answer
    )


def _place(annotation: Item, answer: str) -> dict[str, Any]:
    start, end = _index(annotation.get("start_index")), _index(annotation.get("end_index"))
    place: dict[str, Any] = {"snippet": _text(annotation.get("text"))}
    if start is not None and end is not None and start <= end:
        place["snippet"] = place["snippet"] or answer[start:end]
        place["span"] = {"start": start, "end": end}
    return place


def _file_id(annotation: Item) -> str:
    return _text(annotation.get("file_id")) if annotation.get("type") == "file_citation" else ""


def _is_web(url: str) -> bool:
    """What a client may make a link of: nothing that runs in its page."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(parts.netloc)


def _index(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""

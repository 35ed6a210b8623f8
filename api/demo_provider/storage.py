"""The files and vector stores that the server holds: what they are called and how large they are, not what is in them.

Pure. Deleting a file takes it out of every vector store, as OpenAI does. Lists are newest first.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from api.demo_provider.wire import ApiError, new_id

MAX_PAGE = 10_000


@dataclass(slots=True)
class HeldFile:
    """An uploaded file."""

    filename: str
    purpose: str
    size: int
    id: str = field(default_factory=lambda: new_id("file-"))
    created_at: int = field(default_factory=lambda: int(time.time()))

    def as_json(self) -> dict[str, Any]:
        """The file object of the API."""
        return {
            "id": self.id,
            "object": "file",
            "bytes": self.size,
            "created_at": self.created_at,
            "filename": self.filename,
            "purpose": self.purpose,
            "status": "processed",
        }


@dataclass(slots=True)
class IndexedFile:
    """A file in a vector store; indexing is done at once."""

    id: str
    vector_store_id: str
    attributes: Mapping[str, Any]
    created_at: int = field(default_factory=lambda: int(time.time()))

    def as_json(self) -> dict[str, Any]:
        """The vector store file object of the API."""
        return {
            "id": self.id,
            "object": "vector_store.file",
            "created_at": self.created_at,
            "vector_store_id": self.vector_store_id,
            "status": "completed",
            "last_error": None,
            "attributes": dict(self.attributes),
        }


@dataclass(slots=True)
class VectorStore:
    """A vector store and its files, by id."""

    name: str | None = None
    id: str = field(default_factory=lambda: new_id("vs_"))
    created_at: int = field(default_factory=lambda: int(time.time()))
    files: dict[str, IndexedFile] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The vector store object of the API."""
        return {
            "id": self.id,
            "object": "vector_store",
            "created_at": self.created_at,
            "name": self.name,
            "status": "completed",
            "file_counts": {
                "in_progress": 0,
                "completed": len(self.files),
                "failed": 0,
                "cancelled": 0,
                "total": len(self.files),
            },
        }


Held = TypeVar("Held", HeldFile, IndexedFile, VectorStore)


class Storage:
    """Everything held, oldest first. What is not there is refused with 404."""

    def __init__(self) -> None:
        self._files: dict[str, HeldFile] = {}
        self._stores: dict[str, VectorStore] = {}

    def add_file(self, file: HeldFile) -> HeldFile:
        """Hold a file."""
        self._files[file.id] = file
        return file

    def file(self, file_id: str) -> HeldFile:
        """The file of that id."""
        return _found(self._files, file_id, "File")

    def files(self, purpose: str | None) -> Sequence[HeldFile]:
        """All files, or those of a purpose."""
        return [file for file in self._files.values() if purpose in (None, file.purpose)]

    def delete_file(self, file_id: str) -> None:
        """Forget a file, here and in every vector store."""
        _found(self._files, file_id, "File")
        del self._files[file_id]
        for store in self._stores.values():
            store.files.pop(file_id, None)

    def create_store(self, name: str | None) -> VectorStore:
        """Hold a new vector store."""
        store = VectorStore(name)
        self._stores[store.id] = store
        return store

    def store(self, store_id: str) -> VectorStore:
        """The vector store of that id."""
        return _found(self._stores, store_id, "Vector store")

    def stores(self) -> Sequence[VectorStore]:
        """All vector stores."""
        return [*self._stores.values()]

    def delete_store(self, store_id: str) -> None:
        """Forget a vector store; its files stay."""
        del self._stores[self.store(store_id).id]

    def index_file(self, store_id: str, file_id: str, attributes: Mapping[str, Any]) -> IndexedFile:
        """Put a file into a vector store; once more changes its attributes."""
        store = self.store(store_id)
        indexed = IndexedFile(self.file(file_id).id, store.id, attributes)
        store.files[file_id] = indexed
        return indexed

    def indexed_file(self, store_id: str, file_id: str) -> IndexedFile:
        """The file in a vector store."""
        return _found(self.store(store_id).files, file_id, "File in the vector store")

    def remove_indexed_file(self, store_id: str, file_id: str) -> None:
        """Take a file out of a vector store; the file itself stays."""
        self.indexed_file(store_id, file_id)
        del self.store(store_id).files[file_id]

    def as_json(self) -> dict[str, Any]:
        """Everything held, as the control endpoint shows it."""
        return {
            "files": [file.as_json() for file in self._files.values()],
            "vector_stores": [
                {**store.as_json(), "files": [file.as_json() for file in store.files.values()]}
                for store in self._stores.values()
            ],
        }


def page_of(held: Sequence[Held], *, after: str | None, limit: int) -> dict[str, Any]:
    """One page of a list, newest first, in the form of the API.

    Args:
        held: oldest first.
        after: the last id of the page before; unknown starts over.
    """
    newest_first = held[::-1]
    ids = [item.id for item in newest_first]
    start = ids.index(after) + 1 if after in ids else 0
    page = newest_first[start : start + limit]
    return {
        "object": "list",
        "data": [item.as_json() for item in page],
        "first_id": page[0].id if page else None,
        "last_id": page[-1].id if page else None,
        "has_more": start + limit < len(ids),
    }


def _found(held: Mapping[str, Held], wanted: str, kind: str) -> Held:
    try:
        return held[wanted]
    except KeyError:
        raise ApiError(f"{kind} not found: {wanted}.", status=404, code="not_found") from None

"""What an upload is, decided before there is a row of it: its type, its limits, and where it will be stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from shared.attachments.errors import ImagesDisabledError, UnsupportedFileTypeError
from shared.attachments.filenames import provider_filename
from shared.attachments.media_types import Kind, MediaType, media_type_of
from shared.errors import UnprocessableError
from shared.ids import AttachmentId, ChatId
from shared.model_catalog.catalog import Catalog, CatalogModel
from shared.providers.storage import DOCUMENT_PURPOSE, ProviderStorage
from shared.settings import RagSettings

_KIB: Final = 1_024
_MIB: Final = 1_048_576


@dataclass(frozen=True, slots=True)
class Incoming:
    """A file that nothing speaks against yet.

    Attributes:
        limit: bytes that it may have.
        size_hint: bytes that it will have if its client is right; 0 if nothing is known.
    """

    attachment_id: AttachmentId
    chat_id: ChatId
    filename: str
    media: MediaType
    limit: int
    size_hint: int
    storage: ProviderStorage

    @property
    def provider_filename(self) -> str:
        return provider_filename(self.chat_id, self.attachment_id, self.media.extension)

    @property
    def purpose(self) -> str:
        """What the provider is told that the file is for."""
        return self.storage.image_purpose if self.media.kind == "image" else DOCUMENT_PURPOSE


@dataclass(frozen=True, slots=True)
class Terms:
    """Under which uploads into a chat are taken; `model` is the chat's, if the catalog has it."""

    model: CatalogModel | None
    catalog: Catalog
    rag: RagSettings

    @property
    def max_bytes_per_chat(self) -> int:
        return self.rag.max_total_upload_mb_per_chat * _MIB

    def limit_of(self, kind: Kind) -> int:
        """Bytes that a file may have."""
        by_kind: Mapping[Kind, int] = {
            "document": self.rag.uploaded_file_max_size_kb,
            "image": self.rag.uploaded_image_max_size_kb,
        }
        limit = by_kind[kind] * _KIB
        of_model = None if self.model is None else self.model.general_config.max_file_size_mb
        return limit if of_model is None else min(limit, of_model * _MIB)

    def media_type_of(self, declared: str, filename: str) -> MediaType:
        """
        Raises:
            UnsupportedFileTypeError: files of the type are not taken at all.
            ImagesDisabledError: images are not, for now.
        """
        media = media_type_of(declared, filename, allow_csv=self.rag.allow_csv_upload)
        if media is None:
            raise UnsupportedFileTypeError
        if media.kind == "image" and self.catalog.kill_switches.disable_images:
            raise ImagesDisabledError
        return media

    def usable(self, media: MediaType) -> MediaType:
        """The type with what files of it can be used for in this chat.

        Raises:
            UnprocessableError: they cannot be used for anything.
        """
        if not media.for_code_interpreter or self._can_interpret_code:
            return media
        if not media.for_file_search:
            raise UnprocessableError("Files of this type need the code interpreter, which is not available")
        return replace(media, for_code_interpreter=False)

    @property
    def _can_interpret_code(self) -> bool:
        return (
            self.model is not None
            and self.model.general_config.tool_support.code_interpreter
            and self.catalog.provider_of(self.model).kind == "openai_responses"
            and not self.catalog.kill_switches.disable_code_interpreter
        )

from __future__ import annotations

from typing import Final

from shared.errors import (
    ConflictError,
    InvalidError,
    NotFoundError,
    TooLargeError,
    UnavailableError,
    UnsupportedError,
)

UPLOAD_RETRY_SECS: Final = 5


class AttachmentNotFoundError(NotFoundError):
    code = "attachment_not_found"
    default_detail = "Attachment not found"


class AttachmentLockedError(ConflictError):
    code = "attachment_locked"
    default_detail = "A message refers to the attachment"


class UnsupportedFileTypeError(UnsupportedError):
    code = "unsupported_file_type"
    default_detail = "Files of this type are not accepted"


class FileTooLargeError(TooLargeError):
    code = "file_too_large"
    default_detail = "The file is too large"


class ImagesDisabledError(InvalidError):
    code = "images_disabled"
    default_detail = "Images are currently disabled"


class DocumentLimitExceededError(InvalidError):
    code = "document_limit_exceeded"
    default_detail = "The chat holds as many documents as it may"


class StorageLimitExceededError(InvalidError):
    code = "storage_limit_exceeded"
    default_detail = "The files of the chat would be too large together"


class ProviderMismatchError(ConflictError):
    code = "provider_mismatch"
    default_detail = "The files of the chat are at another provider"


class UploadConcurrencyLimitError(UnavailableError):
    code = "upload_concurrency_limit"
    default_detail = "Too many uploads at once"

    def __init__(self) -> None:
        super().__init__(retry_after_secs=UPLOAD_RETRY_SECS)

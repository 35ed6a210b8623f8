"""The failures that a turn can meet before its stream opens."""

from __future__ import annotations

from shared.errors import (
    ConflictError,
    InvalidError,
    NotFoundError,
    TooLargeError,
    UnprocessableError,
    UnsupportedError,
)


class TurnNotFoundError(NotFoundError):
    code = "turn_not_found"
    default_detail = "Turn not found"


class RequestIdConflictError(ConflictError):
    code = "request_id_conflict"
    default_detail = "This request_id was already used in this chat"


class GenerationInProgressError(ConflictError):
    code = "generation_in_progress"
    default_detail = "A generation is already running for this chat"


class InvalidAttachmentError(InvalidError):
    code = "invalid_attachment"
    default_detail = "An attachment is missing, not ready, or not yours"


class InputTooLongError(UnprocessableError):
    code = "input_too_long"

    def __init__(self, *, current: int, maximum: int) -> None:
        super().__init__(
            f"Message too long. Current: {current} tokens, Maximum: {maximum} tokens. Please shorten your message."
        )


class ContextBudgetExceededError(UnprocessableError):
    code = "context_budget_exceeded"

    def __init__(self, *, required: int, available: int) -> None:
        super().__init__(f"The context needs {required} tokens, of which {available} are available.")


class UnsupportedMediaError(UnsupportedError):
    code = "unsupported_media"
    default_detail = "The model does not accept images"


class WebSearchDisabledError(InvalidError):
    code = "web_search_disabled"
    default_detail = "Web search is currently disabled"


class TooManyImagesError(InvalidError):
    code = "too_many_images"
    default_detail = "Too many images in one message"


class ImageBytesExceededError(TooLargeError):
    code = "image_bytes_exceeded"
    default_detail = "The images of one message are too large together"


class InvalidTurnStateError(InvalidError):
    code = "invalid_turn_state"
    default_detail = "The turn is still running"


class NotLatestTurnError(ConflictError):
    code = "not_latest_turn"
    default_detail = "Only the last turn of a chat can be changed"

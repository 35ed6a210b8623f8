from __future__ import annotations

from shared.errors import NotFoundError


class ChatNotFoundError(NotFoundError):
    code = "chat_not_found"
    default_detail = "Chat not found"

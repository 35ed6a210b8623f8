from __future__ import annotations

from typing import Literal

from shared.errors import ThrottledError

QuotaScope = Literal["tokens", "uploads", "web_search", "code_interpreter", "image_inputs"]


class QuotaExceededError(ThrottledError):
    """A quota is used up; `quota_scope` says which."""

    code = "quota_exceeded"
    default_detail = "The quota is used up"

    def __init__(self, detail: str | None = None, *, quota_scope: QuotaScope) -> None:
        super().__init__(detail)
        self.quota_scope = quota_scope

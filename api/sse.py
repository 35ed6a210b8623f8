"""What every stream of server-sent events is answered with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

SSE_MEDIA_TYPE: Final = "text/event-stream"
SSE_HEADERS: Final[Mapping[str, str]] = {
    "Content-Type": SSE_MEDIA_TYPE,
    "Cache-Control": "no-cache, no-transform",
    "Connection": "keep-alive",
    "X-Accel-Buffering": "no",
}

"""How ids are made: UUIDv7 where creation order helps an index, UUIDv4 where an id must not tell its age."""

from __future__ import annotations

import os
import socket
import uuid
from datetime import datetime
from typing import NewType

import uuid_utils.compat

TenantId = NewType("TenantId", uuid.UUID)
UserId = NewType("UserId", uuid.UUID)
ChatId = NewType("ChatId", uuid.UUID)
MessageId = NewType("MessageId", uuid.UUID)
AttachmentId = NewType("AttachmentId", uuid.UUID)
TurnId = NewType("TurnId", uuid.UUID)
RequestId = NewType("RequestId", uuid.UUID)
"""The client's idempotency key of a turn, unique only inside its chat."""


def new_uuid4() -> uuid.UUID:
    return uuid.uuid4()  # noqa: TID251 (the one place that may)


def process_name() -> str:
    """A name for this process among all of the fleet: readable for operators, and never the same twice."""
    return f"{socket.gethostname()[:64]}:{os.getpid()}:{new_uuid4().hex[:12]}"


def new_uuid7() -> uuid.UUID:
    return uuid_utils.compat.uuid7()


def first_uuid7(at: datetime) -> uuid.UUID:
    """Not greater than any UUIDv7 made since then.

    Source: https://www.rfc-editor.org/rfc/rfc9562#section-5.7
    """
    return uuid.UUID(int=int(at.timestamp() * 1000) << 80)

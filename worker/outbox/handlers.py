"""What delivers one kind of message."""

from __future__ import annotations

from typing import Protocol

from shared.outbox.repository import Message


class RejectedMessageError(Exception):
    """No further try will help: the message becomes a dead letter at once. The text says why, without content."""


class Handler(Protocol):
    """Delivers the messages of one queue.

    A message may come again after it was handled: a worker can die before it has noted the delivery. Messages with one
    partition key come in order and one at a time. A handler may take as long as it needs, its lease is renewed; it is
    cancelled when the lease is lost, as somebody else delivers the message then, or when the worker stops.
    """

    @property
    def queue(self) -> str:
        """Whose messages it takes."""
        ...

    @property
    def max_attempts(self) -> int:
        """After that many failures a message becomes a dead letter."""
        ...

    async def handle(self, message: Message) -> None:
        """Deliver, or raise: RejectedMessageError ends it, any other exception has it tried again later."""
        ...

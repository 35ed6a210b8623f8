"""A lane: messages of one key that this process holds, delivered one after the other."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from shared.db.engine import Sessions
from shared.outbox.repository import Held, Message, OutboxRepository


class LeaseLostError(Exception):
    """The lease ran out before it could be renewed, or somebody else has the message."""


@dataclass(eq=False)
class Lane:
    token: str
    messages: deque[Message]
    scope: asyncio.Timeout
    """Ends whatever runs in the lane when the lease does."""
    settling: int | None = field(default=None)
    """A message whose delivery is being noted, which needs no lease."""
    is_running: bool = field(default=False)

    @property
    def held(self) -> list[Held]:
        return [Held(message.id, self.token) for message in self.messages if message.id != self.settling]

    def hold_until(self, moment: float) -> None:
        # It may have ended while its lease was renewed, or not have begun.
        if self.is_running and not self.scope.expired():
            self.scope.reschedule(moment)


def lanes_of(messages: Iterable[Message], *, token: str, until: float) -> list[Lane]:
    """One lane for each key, in the order in which their fronts come."""
    by_key: dict[tuple[str, str], deque[Message]] = {}
    for message in messages:
        by_key.setdefault((message.queue, message.partition_key), deque()).append(message)
    return [Lane(token, queued, asyncio.timeout_at(until)) for queued in by_key.values()]


async def renew_leases(sessions: Sessions, lanes: Sequence[Lane], *, lease: timedelta) -> None:
    """Prolong all lanes in one statement. A lane of which anything is gone ends. Raises what the database raises."""
    asked = [(lane, lane.held) for lane in lanes]
    held = [one for _, part in asked for one in part]
    if not held:
        return
    loop = asyncio.get_running_loop()
    until = loop.time() + lease.total_seconds()
    async with asyncio.timeout(lease.total_seconds() / 3), sessions.begin() as session:
        renewed = await OutboxRepository(session).renew(held, lease=lease)
    for lane, part in asked:
        # What was settled meanwhile is missing, too, and rightly.
        still_held = {one.id for one in lane.held}
        is_whole = all(one.id in renewed for one in part if one.id in still_held)
        lane.hold_until(until if is_whole else loop.time())

"""Which processes have clients attached to a turn, for turns that are to stop when nobody is left.

A process with at least one attached client is a member of the turn's `:clients` set, scored with the moment its
heartbeat runs out. It renews that every `HEARTBEAT_INTERVAL`, and takes itself out when it has seen its last client
leave. A process that dies is out once its heartbeat has run out; a Valkey that lost its keys has them again within one
interval.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from datetime import timedelta

from shared.valkey.client import Valkey
from shared.valkey.keyspace import TurnKeys
from shared.valkey.scripts import Script

HEARTBEAT_INTERVAL = timedelta(seconds=3)
HEARTBEAT_TTL_MS = 10_000
UNSEEN_MARGIN_SECS = 5.0
"""Absence that nobody has reported must last this much longer than the grace before it counts."""

_LEAVE = Script("leave")


class Presence:
    """The `:clients` sets. Every method may raise what `REDIS_FAILURE` names."""

    def __init__(self, valkey: Valkey, *, process: str) -> None:
        self._valkey = valkey
        self._process = process

    async def announce(self, turns: Iterable[TurnKeys]) -> None:
        """This process has clients of these turns: enter it, or renew its heartbeat, in one round trip."""
        expires = _now_ms() + HEARTBEAT_TTL_MS
        async with self._valkey.pipeline(transaction=False) as pipeline:
            for keys in turns:
                pipeline.zadd(keys.clients, {self._process: expires})
                pipeline.pexpire(keys.clients, 2 * HEARTBEAT_TTL_MS)
            await pipeline.execute()

    async def leave(self, keys: TurnKeys) -> int:
        """This process has no client of the turn left; how many processes have."""
        return int(await _LEAVE(self._valkey, [keys.clients], [self._process, _now_ms()]))

    async def count(self, turns: Sequence[TurnKeys]) -> list[int]:
        """For each turn, how many processes have clients, in one round trip."""
        now = _now_ms()
        async with self._valkey.pipeline(transaction=False) as pipeline:
            for keys in turns:
                pipeline.zcount(keys.clients, now, "+inf")
            counts: list[int] = await pipeline.execute()
        return counts


def _now_ms() -> int:
    return int(time.time() * 1000)

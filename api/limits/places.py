"""What users have taken of their limits through this process: a member in a sorted set each.

It is taken together with the check (`admit.lua`). A stream's place lives for `PLACE_LIFE_MS`; while the stream runs it
is renewed by one heartbeat for all, so that the places of a process that dies are free again when they run out.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from contextlib import suppress
from datetime import timedelta

from shared.tasks import BackgroundTasks
from shared.valkey.client import REDIS_FAILURE, Valkey
from shared.valkey.scripts import Script, run_scripts

HEARTBEAT_INTERVAL = timedelta(seconds=3)
PLACE_LIFE_MS = 10_000

_HOLD = Script("hold_streams")


class Place:
    __slots__ = ("_key", "_member", "_places")

    def __init__(self, places: Places, key: str, member: str) -> None:
        self._places = places
        self._key = key
        self._member = member

    def hold(self) -> None:
        """The stream runs: until `give_back` its place does not run out."""
        self._places.hold(self._key, self._member)

    def give_back(self) -> None:
        self._places.give_back(self._key, self._member)


class Places:
    """Names places, renews those of open streams, and gives places back. What Valkey misses of that runs out."""

    def __init__(self, valkey: Valkey, *, process: str) -> None:
        self._valkey = valkey
        self._names = (f"{process}:{number}" for number in itertools.count(1))
        self._held: defaultdict[str, set[str]] = defaultdict(set)
        self._tasks = BackgroundTasks()

    def next_name(self) -> str:
        """Of a place that no other request of any process has."""
        return next(self._names)

    def of(self, key: str, member: str) -> Place:
        return Place(self, key, member)

    def hold(self, key: str, member: str) -> None:
        self._held[key].add(member)

    def give_back(self, key: str, member: str) -> None:
        """Without waiting for it."""
        held = self._held.get(key)
        if held is not None:
            held.discard(member)
            if not held:
                del self._held[key]
        self._tasks.spawn(self._remove(key, member), name="give a place back")

    async def renew(self) -> None:
        """One round trip for all open streams."""
        if self._held:
            calls = [_HOLD.call([key], [PLACE_LIFE_MS, *members]) for key, members in self._held.items()]
            with suppress(*REDIS_FAILURE):
                await run_scripts(self._valkey, calls)

    async def aclose(self) -> None:
        await self._tasks.aclose()

    async def _remove(self, key: str, member: str) -> None:
        with suppress(*REDIS_FAILURE):
            await self._valkey.zrem(key, member)

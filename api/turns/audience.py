"""The clients that this process has attached to turns that stop when nobody is left (`on_disconnect: cancel`)."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from contextlib import suppress
from uuid import UUID

from shared.tasks import BackgroundTasks
from shared.turns.presence import Presence
from shared.turns.stop import TurnStopper
from shared.valkey.client import REDIS_FAILURE
from shared.valkey.keyspace import TurnKeys

logger = logging.getLogger(__name__)

LOOK_INTERVAL_SECS = 0.25


class Audience:
    """Counts clients by turn, keeps this process announced for as long as there are some, and acts on the last one out.

    When the last client of the last process has left, the grace begins here; if this process dies meanwhile, the turn's
    worker notices that nobody is there.
    """

    def __init__(self, presence: Presence, stopper: TurnStopper, *, grace_secs: float, draining: asyncio.Event) -> None:
        self._presence = presence
        self._stopper = stopper
        self._grace_secs = grace_secs
        self._draining = draining
        self._clients: Counter[TurnKeys] = Counter()
        self._countdowns: dict[TurnKeys, asyncio.Task[None]] = {}
        self._tasks = BackgroundTasks()

    async def enter(self, keys: TurnKeys) -> None:
        """A client has attached: a countdown that runs stops."""
        self._clients[keys] += 1
        countdown = self._countdowns.pop(keys, None)
        if countdown is not None:
            countdown.cancel()
        if self._clients[keys] == 1:
            await self._announce([keys])

    def leave(self, keys: TurnKeys, turn_id: UUID, *, has_hung_up: bool) -> None:
        """A client has gone: it hung up, or was sent away by the end of the turn or by this process's drain."""
        self._clients[keys] -= 1
        if self._clients[keys] > 0:
            return
        del self._clients[keys]
        if has_hung_up and not self._draining.is_set():
            self._countdowns[keys] = self._tasks.spawn(
                self._last_one_out(keys, turn_id, since=time.monotonic()), name=f"grace {turn_id}"
            )

    async def renew(self) -> None:
        """One heartbeat for all turns."""
        if self._clients:
            await self._announce(list(self._clients))

    async def aclose(self) -> None:
        await self._tasks.aclose()

    async def _announce(self, turns: list[TurnKeys]) -> None:
        # An announcement that is lost is made again by the next heartbeat.
        with suppress(*REDIS_FAILURE):
            await self._presence.announce(turns)

    async def _last_one_out(self, keys: TurnKeys, turn_id: UUID, *, since: float) -> None:
        try:
            if await self._presence.leave(keys) > 0 or await self._has_come_back(keys):
                return
        except REDIS_FAILURE as error:
            # Without Valkey nobody knows who is attached elsewhere: the worker decides once it is back.
            logger.warning("the audience of a turn is unknown: %r", error, extra={"turn_id": str(turn_id)})
            return
        finally:
            self._countdowns.pop(keys, None)
        if not self._draining.is_set():
            await self._stopper.stop(turn_id, "disconnect", since=since)

    async def _has_come_back(self, keys: TurnKeys) -> bool:
        """Whether somebody attaches, anywhere, within the grace. Whoever does counts down anew when leaving again."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._grace_secs
        while (left := deadline - loop.time()) > 0:
            await asyncio.sleep(min(left, LOOK_INTERVAL_SECS))
            if (await self._presence.count([keys]))[0] > 0:
                return True
        return False

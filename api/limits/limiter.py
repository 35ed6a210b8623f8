"""What one user may do at a time, counted in Valkey for all replicas, and how long the queue may get.

A turn is checked in the one round trip that every send makes anyway, after the request id has been looked up: a replay
is not counted. All other requests are counted once their caller is known. Streams have places that run out with their
process; turns count until their log says that they have ended or, where a log cannot say it, their row.

Waiting turns are the jobs that no worker has taken, and the turns that are between this check and their enqueue: the
slower the database, the more of these, and the more it matters that they count.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from api.auth import Principal
from api.limits.errors import QueueFullError, too_many_at_once, too_many_requests
from api.limits.places import PLACE_LIFE_MS, Place, Places
from shared.db.engine import Sessions, single_statement
from shared.errors import UnavailableError
from shared.queue.queue import QUEUE_NAME
from shared.settings import Settings
from shared.turns.repository import TurnRepository
from shared.valkey.client import REDIS_FAILURE, Valkey
from shared.valkey.keyspace import QUEUE_ADMITTED, TURN_EVENTS, LimitKeys, TurnKeys
from shared.valkey.scripts import Script

logger = logging.getLogger(__name__)

PREFLIGHT_MS = 60_000
"""From the check to the log and the job of an accepted turn: far longer than its transaction may take."""
LOG_MARGIN_SECS = 600
"""A turn's log outlives the oldest possible turn by this."""
OPEN_PATIENCE_SECS = 0.5
"""With `limits.fail_open`, how long a Valkey that hangs may hold up what it cannot refuse."""
MICROSECONDS = 1_000_000

_ADMIT = Script("admit")


@dataclass(frozen=True, slots=True)
class Entry:
    """A new turn that the limits let through, or, if not `is_answered`, that nobody could count.

    Attributes:
        stream: the place of its first stream, if streams are limited.
        places: all that it has taken.
        name: of its place in the queue.
    """

    is_answered: bool
    stream: Place | None = None
    places: tuple[Place, ...] = ()
    name: str = ""

    def give_back(self) -> None:
        """There is no such turn after all."""
        for place in self.places:
            place.give_back()


class Limiter:
    def __init__(self, valkey: Valkey, sessions: Sessions, settings: Settings, places: Places) -> None:
        self._valkey = valkey
        self._sessions = sessions
        self._places = places
        self._limits = limits = settings.limits
        rate = limits.requests_per_second
        # Without a burst of its own: what one second allows.
        self._burst = limits.burst or max(1, math.ceil(min(rate, MICROSECONDS)))
        self._interval_us = max(1, round(MICROSECONDS / rate)) if rate > 0 else 0
        self._turns_life_ms = (settings.turns.max_age_secs + LOG_MARGIN_SECS) * 1000
        self._has_turn_limits = bool(
            self._interval_us
            or limits.concurrent_turns_per_user
            or limits.concurrent_streams_per_user
            or limits.max_queued_turns
        )

    async def count(self, principal: Principal) -> None:
        """Count a request other than one for a turn.

        Raises:
            LimitReachedError: the user makes too many.
            UnavailableError: nobody can count them, and `limits.fail_open` is off.
        """
        if self._interval_us:
            await self._ask_or_fail_open(_keys_of(principal), self._interval_us, name=None)

    async def open_stream(self, principal: Principal) -> Place | None:
        """The place of one more stream of an existing turn; None if streams are not limited.

        Raises:
            LimitReachedError: the user has too many open.
            UnavailableError: nobody can count them, and `limits.fail_open` is off.
        """
        most = self._limits.concurrent_streams_per_user
        if not most:
            return None
        keys, name = _keys_of(principal), self._places.next_name()
        await self._ask_or_fail_open(keys, 0, name=name)
        return self._places.of(keys.streams, name)

    async def join_stream(self, principal: Principal) -> Place | None:
        """The same for a send that joins its turn: it counts, but is not refused."""
        if not self._limits.concurrent_streams_per_user:
            return None
        keys, name = _keys_of(principal), self._places.next_name()
        with suppress(*REDIS_FAILURE):
            await self._run(keys, name=name, most_streams=0)
        return self._places.of(keys.streams, name)

    async def is_valkey_there(self) -> bool:
        """Before anything is written: without Valkey no turn is taken on. True unasked if limits will ask anyway."""
        if self._has_turn_limits:
            return True
        try:
            await self._valkey.ping()
        except REDIS_FAILURE as error:
            logger.warning("Valkey does not answer: %r", error)
            return False
        return True

    @asynccontextmanager
    async def entering(self, principal: Principal, turn: TurnKeys, *, is_valkey_there: bool) -> AsyncIterator[Entry]:
        """Count a turn for the length of the block, and further on if the block does not raise.

        Raises:
            LimitReachedError: too many requests, turns or streams of the user.
            QueueFullError: too many turns wait.
        """
        entry = await self._enter(principal, turn) if self._has_turn_limits else Entry(is_valkey_there)
        try:
            yield entry
        except BaseException:
            entry.give_back()
            raise

    async def _enter(self, principal: Principal, turn: TurnKeys) -> Entry:
        keys, name = _keys_of(principal), self._places.next_name()
        try:
            await self._admit_turn(keys, turn, name)
        except REDIS_FAILURE as error:
            logger.warning("Valkey does not answer: %r", error)
            return Entry(is_answered=False)
        return self._entry_of(keys, turn, name)

    def _entry_of(self, keys: LimitKeys, turn: TurnKeys, name: str) -> Entry:
        limits, place = self._limits, self._places.of
        stream = place(keys.streams, name) if limits.concurrent_streams_per_user else None
        member = f"{turn.chat_id} {turn.request_id} {name}"
        running = place(keys.turns, member) if limits.concurrent_turns_per_user else None
        waiting = place(QUEUE_ADMITTED, name) if limits.max_queued_turns else None
        return Entry(True, stream, tuple(filter(None, (stream, running, waiting))), name)

    async def _admit_turn(self, keys: LimitKeys, turn: TurnKeys, name: str) -> None:
        answer = await self._run(keys, interval_us=self._interval_us, turn=turn, name=name)
        if answer[0] == b"turns" and await self._forget_ended(keys, answer[1:]):
            answer = await self._run(keys, turn=turn, name=name)
        self._raise_for(answer)

    async def _forget_ended(self, keys: LimitKeys, members: Sequence[bytes]) -> bool:
        """Take out turns whose log will never say that they have ended: who should have written it was killed."""
        counted = {_turn_of(member): member for member in members}
        async with single_statement(self._sessions) as session:
            running = await TurnRepository(session).list_running(list(counted))
        ended = [counted[turn] for turn in counted.keys() - running]
        if ended:
            await self._valkey.zrem(keys.turns, *ended)
        return bool(ended)

    async def _ask_or_fail_open(self, keys: LimitKeys, interval_us: int, *, name: str | None) -> None:
        try:
            async with asyncio.timeout(OPEN_PATIENCE_SECS if self._limits.fail_open else None):
                answer = await self._run(keys, interval_us=interval_us, name=name)
        except REDIS_FAILURE as error:
            if not self._limits.fail_open:
                raise UnavailableError from error
            logger.warning("a request is let through uncounted: %r", error)
            return
        self._raise_for(answer)

    async def _run(
        self,
        keys: LimitKeys,
        *,
        interval_us: int = 0,
        turn: TurnKeys | None = None,
        name: str | None = None,
        most_streams: int | None = None,
    ) -> list[Any]:
        limits = self._limits
        has_stream = name is not None and limits.concurrent_streams_per_user > 0
        answer: list[Any] = await _ADMIT(
            self._valkey,
            [keys.rate, keys.turns, keys.streams, QUEUE_NAME, QUEUE_ADMITTED],
            [
                interval_us,
                self._burst,
                "" if turn is None else str(turn.chat_id),
                "" if turn is None else str(turn.request_id),
                limits.concurrent_turns_per_user,
                TURN_EVENTS,
                PREFLIGHT_MS,
                self._turns_life_ms,
                limits.concurrent_streams_per_user if most_streams is None else most_streams,
                PLACE_LIFE_MS if has_stream else 0,
                0 if turn is None else limits.max_queued_turns,
                name or "",
            ],
        )
        return answer

    def _raise_for(self, answer: Sequence[Any]) -> None:
        match answer[0]:
            case b"requests":
                raise too_many_requests(
                    wait_secs=int(answer[1]) / MICROSECONDS,
                    burst=self._burst,
                    window_secs=self._burst * self._interval_us / MICROSECONDS,
                )
            case b"turns":
                raise too_many_at_once("turns", most=self._limits.concurrent_turns_per_user)
            case b"streams":
                raise too_many_at_once("streams", most=self._limits.concurrent_streams_per_user)
            case b"queue":
                raise QueueFullError


def _keys_of(principal: Principal) -> LimitKeys:
    return LimitKeys(principal.tenant_id, principal.user_id)


def _turn_of(member: bytes) -> tuple[UUID, UUID]:
    chat_id, request_id, _ = member.decode().split(" ")
    return UUID(chat_id), UUID(request_id)

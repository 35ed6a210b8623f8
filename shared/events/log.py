"""The event log of a turn: an append-only stream that any number of clients read, each at its own cursor.

Entry ids are explicit (`shared.events.ids`). The server refuses an id that is not greater than the newest one; that
refusal is the fence between attempts: once attempt n+1 is opened, attempt n can write nothing more, wherever its worker
is and whenever it wakes up. An entry is announced on the turn's live channel by the script that appends it, and only if
it was taken, together with the id of the entry before it, so that a reader sees at once whether it has missed one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from shared.events.frames import MARK, TERMINAL_EVENTS, Frame, delta_text
from shared.events.ids import EntryId
from shared.settings import Settings
from shared.valkey.client import Valkey
from shared.valkey.keyspace import TurnKeys
from shared.valkey.scripts import Argument, Script, ScriptCall

PAGE = 256
CANCEL_TTL_SECS = 3_600
SAFETY_TTL_SECS = 600
"""How much longer than the oldest possible turn a log lives that nobody has ended."""
FAREWELL_MS = 10_000

_OPEN_LOG = Script("open_log")
_APPEND = Script("append")
_OPEN_ATTEMPT = Script("open_attempt")
_REBUILD_LOG = Script("rebuild_log")
_END_LOG = Script("end_log")


class Appended(StrEnum):
    """What became of an entry."""

    TAKEN = "taken"
    ALREADY = "already"
    """It was taken before; the earlier answer was lost. A success."""
    SUPERSEDED = "superseded"
    """A newer attempt, or a terminal event, is in the log: this writer must write nothing more, anywhere."""
    LOST = "lost"
    """The server has lost the log or its tail."""
    CANCELLED = "cancelled"
    """The turn is to stop; the log takes no more content."""
    REFUSED = "refused"
    """Only of an opening: it would have shown a restart, which this turn does not want."""

    @property
    def is_success(self) -> bool:
        return self in (Appended.TAKEN, Appended.ALREADY)


class Entry(NamedTuple):
    """One entry as readers get it. `id` and `event` are as on the wire."""

    id: bytes
    event: bytes
    body: bytes

    @property
    def is_terminal(self) -> bool:
        return self.event in _TERMINAL

    @property
    def is_mark(self) -> bool:
        return self.event == _MARK


@dataclass(frozen=True, slots=True)
class Opened:
    outcome: Appended
    has_restarted: bool = False
    """Whether the opening entry is a `restart`, which clients see."""


_TERMINAL = frozenset(name.encode() for name in TERMINAL_EVENTS)
_MARK = MARK.encode()


class EventLog:
    """The logs of all turns in one Valkey/Redis. Every method may raise what `REDIS_FAILURE` names."""

    def __init__(self, valkey: Valkey, settings: Settings) -> None:
        self._valkey = valkey
        self._ttl_ms = settings.event_log.ttl_secs * 1000
        self._safety_ttl_ms = (settings.turns.max_age_secs + SAFETY_TTL_SECS) * 1000

    def opening(self, keys: TurnKeys, started: Frame) -> ScriptCall:
        """Create the log with `stream_started` as entry 0-1; a log that exists is left as it is.

        Returned as a call so that the enqueue can share its round trip.
        """
        return _OPEN_LOG.call([keys.events], [keys.live, started.body, self._safety_ttl_ms])

    async def open_attempt(
        self, keys: TurnKeys, *, attempt: int, started: Frame, restart: Frame, refuse_restart: bool
    ) -> Opened:
        """Fence off all older attempts. Creates the log, with `started`, if there is none."""
        arguments: list[Argument] = [
            keys.live,
            attempt,
            started.body,
            restart.body,
            self._safety_ttl_ms,
            "1" if refuse_restart else "0",
        ]
        answer = await _OPEN_ATTEMPT(self._valkey, [keys.events], arguments)
        outcome = Appended(answer[0].decode())
        return Opened(outcome, has_restarted=len(answer) > 1 and answer[1] == b"restart")

    async def append(
        self, keys: TurnKeys, frame: Frame, *, entry_id: EntryId, after: EntryId, is_stoppable: bool = False
    ) -> Appended:
        """Append `frame` as `entry_id` if the newest entry is `after`, the one this writer appended last.

        A repeat after a lost answer must carry the same bytes. A terminal frame shortens the log's life.

        Args:
            is_stoppable: refuse the entry once the turn's stop was requested.
        """
        arguments: list[Argument] = [
            keys.live,
            str(after),
            str(entry_id),
            frame.event,
            frame.body,
            "1" if is_stoppable else "0",
            self._ttl_ms if frame.is_terminal else "",
        ]
        answer = await _APPEND(self._valkey, [keys.events, keys.cancel], arguments)
        return Appended(answer.decode())

    async def rebuild(
        self, keys: TurnKeys, *, attempt: int, started: Frame, restart: Frame, frames: Sequence[Frame]
    ) -> Appended:
        """After a loss: write `restart` as `attempt`-0 and `frames` after it, in one step."""
        arguments: list[Argument] = [keys.live, attempt, started.body, restart.body, self._safety_ttl_ms]
        for frame in frames:
            arguments += [frame.event, frame.body]
        answer = await _REBUILD_LOG(self._valkey, [keys.events], arguments)
        return Appended(answer.decode())

    async def end(self, keys: TurnKeys, frame: Frame, *, attempt: int) -> Appended:
        """Append the terminal `frame` on behalf of a turn that no worker holds; nothing is created."""
        answer = await _END_LOG(
            self._valkey, [keys.events], [keys.live, attempt, frame.event, frame.body, self._ttl_ms]
        )
        return Appended(answer.decode())

    async def read(self, keys: TurnKeys, *, start: bytes = b"-", count: int) -> list[Entry]:
        """At most `count` entries from `start` on, `start` included; marks among them.

        Source: https://valkey.io/commands/xrange/
        """
        return [_entry(raw) for raw in await self._valkey.xrange(keys.events, start, "+", count=count)]

    async def newest(self, keys: TurnKeys) -> Entry | None:
        raw = await self._valkey.xrevrange(keys.events, "+", "-", count=1)
        return _entry(raw[0]) if raw else None

    async def shown_text(self, keys: TurnKeys) -> str:
        """The text that a client holds who has read everything: since the last `stream_started` or `restart`."""
        parts: list[str] = []
        start = b"-"
        while page := await self.read(keys, start=start, count=PAGE):
            for entry in page:
                if entry.event in (b"stream_started", b"restart"):
                    parts.clear()
                elif entry.event == b"delta":
                    parts.append(delta_text(entry.body))
            start = b"(" + page[-1].id
        return "".join(parts)

    async def has_shown_content(self, keys: TurnKeys) -> bool | None:
        """Whether a delta or tool event follows the last `stream_started` or `restart`; None if there is no log."""
        end = "+"
        found = False
        while page := await self._valkey.xrevrange(keys.events, end, "-", count=PAGE):
            found = True
            for entry in map(_entry, page):
                if entry.event in (b"delta", b"tool"):
                    return True
                if entry.event in (b"stream_started", b"restart"):
                    return False
                end = "(" + entry.id.decode()
        return False if found else None

    async def close_to_content(self, keys: TurnKeys, trigger: str) -> None:
        """From here on the log takes no further delta or tool event: what it has is what was shown."""
        await self._valkey.set(keys.cancel, trigger, ex=CANCEL_TTL_SECS)

    async def delete(self, turns: Sequence[TurnKeys]) -> None:
        """Forget the logs, in one round trip. Whoever still reads one is told the rest from storage."""
        async with self._valkey.pipeline(transaction=False) as pipeline:
            for keys in turns:
                pipeline.unlink(keys.events)
            await pipeline.execute()

    async def delete_soon(self, keys: TurnKeys) -> None:
        """Forget the log of a turn that has just ended, once its clients have had the time to read the end."""
        await self._valkey.pexpire(keys.events, FAREWELL_MS)

    async def is_closed_to_content(self, keys: TurnKeys) -> bool:
        return bool(await self._valkey.exists(keys.cancel))


def _entry(raw: Any) -> Entry:
    entry_id, fields = raw
    return Entry(entry_id, fields[b"e"], fields[b"f"])

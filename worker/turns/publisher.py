"""Writes an attempt's events to the log as they arrive, and merges text only while a write is under way.

The provider's reader never waits for Valkey: it hands text over and goes on. One task appends. While an append is in
flight, further text gathers and goes out as one delta; an idle log gets each delta at once. The text of the attempt
stays here until the turn has ended, so that a log the server has lost can be written again.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from shared.backoff import outlast
from shared.db.engine import Sessions, is_database_away
from shared.events import frames
from shared.events.frames import Frame, ToolName
from shared.events.grammar import Phase, advance
from shared.events.ids import opening
from shared.events.log import Appended, EventLog
from shared.metrics import Metrics
from shared.settings import Settings
from shared.tasks import BackgroundTasks
from shared.turns.repository import TurnRepository
from shared.valkey.client import is_valkey_away
from worker.turns.held import HeldTurn, Stop, StopKind

logger = logging.getLogger(__name__)

DeltaKind = Literal["text", "reasoning"]

MERGE_BYTES = 4_096
OVERLONG_MERGE_BYTES = 65_536
OVERLONG_PAUSE_SECS = 0.25
"""Past `event_log.max_entries` a log grows by few, large entries."""
SETTLE_TIMEOUT_SECS = 2.0
FINISH_TIMEOUT_SECS = 10.0
"""How long the end of a committed turn is offered to a log that cannot be written; then relays answer from storage."""


@dataclass(slots=True)
class _Text:
    """Deltas of one kind that wait to be appended."""

    kind: DeltaKind
    parts: deque[str] = field(default_factory=deque)

    def take(self, limit_bytes: int) -> str:
        """As many whole parts as fit, at least one."""
        taken = [self.parts.popleft()]
        size = len(taken[0].encode())
        while self.parts:
            size += len(self.parts[0].encode())
            if size > limit_bytes:
                break
            taken.append(self.parts.popleft())
        return "".join(taken)


class Publisher:
    """The writer of one attempt. Use as a context manager, and `begin` once the attempt is open in the log."""

    def __init__(
        self,
        held: HeldTurn,
        *,
        log: EventLog,
        sessions: Sessions,
        settings: Settings,
        metrics: Metrics,
        started: Frame,
    ) -> None:
        self._held = held
        self._log = log
        self._sessions = sessions
        self._metrics = metrics
        self._started = started
        self._max_entries = settings.event_log.max_entries
        self._last_id = opening(held.attempt)
        self._phase = Phase.STARTED
        self._pending: deque[_Text | Frame] = deque()
        self._tools: list[Frame] = []
        self._text = held.deltas
        self._taken: list[str] = []
        self._on_taken: Callable[[], object] | None = None
        self._wake = asyncio.Event()
        self._is_closing = False
        self._is_adrift = False
        self._tasks = BackgroundTasks()
        self._task: asyncio.Task[None] | None = None

    @property
    def text(self) -> str:
        """The whole answer so far, whether the log has it or not."""
        return "".join(self._text)

    @property
    def taken_text(self) -> str:
        """What the log has taken: the text that clients can have seen."""
        return "".join(self._taken)

    @property
    def is_open(self) -> bool:
        """Whether the attempt has been opened in the log."""
        return self._task is not None

    @property
    def has_shown_content(self) -> bool:
        """Whether clients can have seen a delta or a tool event of this attempt."""
        return self._phase is Phase.STREAMING

    def begin(self) -> None:
        """Start to append: the attempt has been opened in the log."""
        self._task = self._tasks.spawn(self._run(), name=f"publish {self._held.turn.id}")

    def when_taken(self, act: Callable[[], object]) -> None:
        """Have `act` called once, as soon as the log has taken the next text."""
        self._on_taken = act

    def delta(self, content: str, kind: DeltaKind = "text") -> None:
        self._phase = advance(self._phase, "delta")
        if kind == "text":
            self._text.append(content)
        last = self._pending[-1] if self._pending else None
        if not isinstance(last, _Text) or last.kind != kind:
            last = _Text(kind)
            self._pending.append(last)
        last.parts.append(content)
        self._wake.set()

    def tool(self, phase: Literal["start", "done"], name: ToolName, details: Mapping[str, Any]) -> None:
        self._phase = advance(self._phase, "tool")
        frame = frames.tool(phase, name, details)
        self._tools.append(frame)
        self._pending.append(frame)
        self._wake.set()

    async def __aenter__(self) -> Publisher:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._tasks.aclose()

    async def settle(self) -> bool:
        """Stop appending once the entry under way has its answer; what waits stays unwritten.

        Returns:
            False if there was no answer in time: what the log holds is unknown.
        """
        self._is_closing = True
        self._wake.set()
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=SETTLE_TIMEOUT_SECS)
            if not self._task.done():
                await self._tasks.aclose()
                # Whether the log has the entry under way is unknown for good: nothing may be offered under its id.
                self._is_adrift = True
        return not self._is_adrift

    async def finish(self, closing: Sequence[Frame]) -> None:
        """After the commit: append the text that the log still lacks, then `closing`, whose last frame is terminal.

        Gives up silently when the log is lost, taken over or out of reach: relays then answer from storage.
        """
        try:
            async with asyncio.timeout(FINISH_TIMEOUT_SECS):
                if not await self.settle():
                    return
                # A client's text must equal the stored one: the rest precedes the end even where a stop is asked for.
                for frame in [*(self._rest() if closing[-1].event == "done" else []), *closing]:
                    if not await self._append_final(frame):
                        return
        except TimeoutError:
            logger.warning("the end of the turn could not be written to its log", extra=self._log_fields())

    def _rest(self) -> list[Frame]:
        """What the log still lacks: tool events, then all remaining text as one delta."""
        tools = [item for item in self._pending if isinstance(item, Frame)]
        text = self.text[len(self.taken_text) :]
        return [*tools, frames.delta(text)] if text else tools

    async def _append_final(self, frame: Frame) -> bool:
        outcome = await self._append(frame, is_stoppable=False)
        if not outcome.is_success:
            logger.warning("the log did not take the end of the turn: %s", outcome, extra=self._log_fields())
        return outcome.is_success

    async def _run(self) -> None:
        while not self._is_closing:
            if not self._pending:
                self._wake.clear()
                await self._wake.wait()
                continue
            stop = await self._append_next()
            if stop is not None:
                self._held.stop(stop)
                return
            if self._last_id.seq > self._max_entries:
                await asyncio.sleep(OVERLONG_PAUSE_SECS)

    async def _append_next(self) -> Stop | None:
        """Append the oldest waiting item; the reason to stop, if the log gives one."""
        item = self._pending[0]
        if isinstance(item, Frame):
            self._pending.popleft()
            frame, content = item, None
        else:
            limit = OVERLONG_MERGE_BYTES if self._last_id.seq > self._max_entries else MERGE_BYTES
            content = item.take(limit)
            if not item.parts:
                self._pending.popleft()
            frame = frames.delta(content, kind=item.kind)
        outcome = await self._append(frame, is_stoppable=True)
        if outcome.is_success:
            if content is not None and isinstance(item, _Text) and item.kind == "text":
                self._taken.append(content)
                if self._on_taken is not None:
                    self._on_taken()
                    self._on_taken = None
            return None
        if outcome is Appended.LOST:
            return await self._rebuild()
        if outcome is Appended.CANCELLED:
            return Stop(StopKind.CANCELLED)
        self._metrics.turn_fenced.inc()
        return Stop(StopKind.SUPERSEDED)

    async def _append(self, frame: Frame, *, is_stoppable: bool) -> Appended:
        """Append with the same bytes until there is an answer."""
        entry_id = self._last_id.next
        outcome = await outlast(
            lambda: self._log.append(
                self._held.keys, frame, entry_id=entry_id, after=self._last_id, is_stoppable=is_stoppable
            ),
            is_outage=self._is_valkey_away,
            first=0.05,
        )
        if outcome.is_success:
            self._last_id = entry_id
        return outcome

    async def _rebuild(self) -> Stop | None:
        """The server has lost the log: take the next attempt number and write again all that there was."""
        async with self._held.lock:
            if self._held.is_finalized:
                return Stop(StopKind.SUPERSEDED)  # after the commit nothing is re-created
            if not await self._take_next_attempt():
                return Stop(StopKind.SUPERSEDED)
        self._metrics.turn_attempts.labels(reason="log_lost").inc()
        attempt = self._held.attempt
        text = self.text
        self._pending.clear()
        events = [*self._tools, *([frames.delta(text)] if text else [])]
        outcome = await outlast(lambda: self._write_again(attempt, events), is_outage=self._is_valkey_away, first=0.05)
        if not outcome.is_success:
            return Stop(StopKind.SUPERSEDED)
        self._taken = [text]
        self._last_id = opening(attempt)._replace(seq=len(events))
        # What arrived while the log was rebuilt waits in `pending` and follows.
        return None

    async def _write_again(self, attempt: int, events: Sequence[Frame]) -> Appended:
        """One try; a turn that was finalized since is left alone."""
        async with self._held.lock:
            if self._held.is_finalized:
                return Appended.SUPERSEDED
            return await self._log.rebuild(
                self._held.keys,
                attempt=attempt,
                started=self._started,
                restart=frames.restart(attempt=attempt, reason="log_lost"),
                frames=events,
            )

    async def _take_next_attempt(self) -> bool:
        may_have_been_taken = False

        async def take() -> bool:
            async with self._sessions.begin() as session:
                turns = TurnRepository(session)
                if await turns.next_attempt(self._held.turn.id, attempt=self._held.attempt):
                    return True
                # An earlier try may have been committed though its answer was lost.
                row = await turns.find(self._held.turn.id) if may_have_been_taken else None
                return (
                    row is not None
                    and row.attempt == self._held.attempt + 1
                    and row.lease_owner == self._held.turn.lease_owner
                )

        def is_outage(error: Exception) -> bool:
            nonlocal may_have_been_taken
            may_have_been_taken = True
            return is_database_away(error)

        taken = await outlast(take, is_outage=is_outage, first=0.1)
        if taken:
            self._held.attempt += 1
        return taken

    def _is_valkey_away(self, error: Exception) -> bool:
        if not is_valkey_away(error):
            return False
        logger.warning("the log cannot be written, will try again: %r", error, extra=self._log_fields())
        return True

    def _log_fields(self) -> dict[str, str]:
        return {"turn_id": str(self._held.turn.id), "chat_id": str(self._held.turn.chat_id)}

"""Keeps the leases of all turns that this worker holds, in one statement every third of a lease."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from uuid import UUID

from shared.db.engine import Sessions, single_statement
from shared.turns.lifecycle import TurnState
from shared.turns.repository import TurnRepository
from worker.turns.held import HeldTurn, Stop, StopKind

logger = logging.getLogger(__name__)


class LeaseKeeper:
    def __init__(self, sessions: Sessions, *, owner: str, lease: timedelta) -> None:
        self._sessions = sessions
        self._held: dict[UUID, HeldTurn] = {}
        self._is_handing_back = False
        self.owner = owner
        self.lease = lease

    @contextmanager
    def holding(self, held: HeldTurn) -> Iterator[None]:
        """Renew the lease of `held` for the length of the block."""
        self._held[held.turn.id] = held
        if self._is_handing_back:
            held.stop(Stop(StopKind.HAND_BACK))
        try:
            yield
        finally:
            # A later attempt of the same turn may have come to this very worker meanwhile.
            if self._held.get(held.turn.id) is held:
                del self._held[held.turn.id]

    @property
    def held(self) -> list[HeldTurn]:
        return list(self._held.values())

    def hand_back_all(self) -> None:
        """Give up every turn held now, and each that is claimed from here on."""
        self._is_handing_back = True
        for held in self.held:
            held.stop(Stop(StopKind.HAND_BACK))

    def stop(self, turn_id: UUID, stop: Stop) -> None:
        """Ask the attempt at a turn to stop, if it is this worker's."""
        held = self._held.get(turn_id)
        if held is not None:
            held.stop(stop)

    async def renew(self) -> None:
        """One round: renew, pass on requests to stop, and stop what is no longer ours.

        Raises:
            Exception: the database is away: the turns go on, the next round renews at once.
        """
        held = self.held
        if not held:
            return
        async with single_statement(self._sessions) as session:
            renewed = await TurnRepository(session).renew(
                [(turn.turn.id, turn.attempt) for turn in held],
                progressing=[turn.turn.id for turn in held if turn.is_progressing],
                lease=self.lease,
            )
        answered = {row.turn_id: row for row in renewed}
        missing = []
        for turn in held:
            row = answered.get(turn.turn.id)
            if row is None:
                missing.append(turn)
            elif row.cancel_trigger is not None:
                turn.stop(Stop(StopKind.CANCELLED))
        if missing:
            await self._stop_gone(missing)

    async def _stop_gone(self, missing: list[HeldTurn]) -> None:
        """A row missing from a renewal may only have been locked: it is gone when a plain read says so."""
        async with single_statement(self._sessions) as session:
            found = {
                status.turn_id: status
                for status in await TurnRepository(session).list_states([turn.turn.id for turn in missing])
            }
        for turn in missing:
            if turn.lock.locked() or turn.is_finalized:
                continue
            status = found.get(turn.turn.id)
            if status is None or status.state is not TurnState.RUNNING or status.attempt > turn.attempt:
                logger.warning("the turn is no longer ours", extra={"turn_id": str(turn.turn.id)})
                turn.stop(Stop(StopKind.SUPERSEDED))

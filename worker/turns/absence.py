"""Stops turns that nobody reads any more and whose API process did not live to say so (`on_disconnect: cancel`)."""

from __future__ import annotations

import time
from datetime import timedelta
from uuid import UUID

from shared.turns.presence import UNSEEN_MARGIN_SECS, Presence
from shared.turns.stop import TurnStopper
from shared.valkey.client import REDIS_FAILURE
from worker.turns.leases import LeaseKeeper

ABSENCE_INTERVAL = timedelta(seconds=1)


class AbsenceWatch:
    def __init__(self, presence: Presence, leases: LeaseKeeper, stopper: TurnStopper, *, grace_secs: float) -> None:
        self._presence = presence
        self._leases = leases
        self._stopper = stopper
        self._patience = grace_secs + UNSEEN_MARGIN_SECS
        self._absent_since: dict[UUID, float] = {}

    async def look(self) -> None:
        """One round over the turns held here. A Valkey that does not answer says nothing about who is there."""
        watched = [held for held in self._leases.held if held.turn.on_disconnect == "cancel"]
        if not watched:
            self._absent_since.clear()
            return
        try:
            counts = await self._presence.count([held.keys for held in watched])
        except REDIS_FAILURE:
            self._absent_since.clear()
            raise
        now = time.monotonic()
        self._absent_since = {
            held.turn.id: self._absent_since.get(held.turn.id, now)
            for held, count in zip(watched, counts, strict=True)
            if count == 0
        }
        for turn_id, since in self._absent_since.items():
            if now - since >= self._patience:
                await self._stopper.stop(turn_id, "disconnect", since=since)

"""The user's stop: ask for it, and wait a moment for the end."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from api.context import ApiContext
from shared.turns.errors import TurnNotFoundError
from shared.turns.lifecycle import TurnState
from shared.turns.repository import TurnRepository
from shared.turns.tables import Turn
from shared.valkey.keyspace import TurnKeys

WAIT_SECS = 1.0
LOOK_INTERVAL_SECS = 0.25
"""How often the row is looked at when nothing is announced, as while Valkey is away."""


async def stop_turn(turn: Turn, context: ApiContext) -> Turn:
    """Stop a running turn and return it as it stands after at most a second: ended, as a rule.

    Raises:
        TurnNotFoundError: it was purged meanwhile.
    """
    if turn.state != TurnState.RUNNING:
        return turn
    # Every entry that is appended wakes us, the terminal one among them, which is only written after the commit.
    with context.live.subscribed(TurnKeys(turn.chat_id, turn.request_id)) as announcements:
        await context.stopper.stop(turn.id, "user_stop")
        deadline = asyncio.get_running_loop().time() + WAIT_SECS
        while True:
            announcements.begin_reading_log()
            found = await _find(turn, context)
            left = deadline - asyncio.get_running_loop().time()
            if found.state != TurnState.RUNNING or left <= 0:
                return found
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left, LOOK_INTERVAL_SECS)):
                    await announcements.wait()


async def _find(turn: Turn, context: ApiContext) -> Turn:
    async with context.sessions() as session:
        found = await TurnRepository(session).find(turn.id)
    if found is None:
        raise TurnNotFoundError
    return found

"""Removing all that belongs to a tenant or a user, as far as it can be done from here.

The chats are deleted the way their users do it; what that sets in motion is done by workers. Everything is looked up
anew at every step and done in small transactions, so a purge that was broken off is simply run again.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from shared.chats.deletion import delete_chat
from shared.chats.errors import ChatNotFoundError
from shared.clock import Clock
from shared.ids import ChatId, TenantId, UserId
from shared.purge.scope import BATCH, PurgeScope
from shared.turns.operating import TurnOperator

TURNS_END_WITHIN: Final = timedelta(seconds=30)
"""A worker closes its call within a moment; one that is gone is noticed after its lease."""
_LOOK_SECS: Final = 0.2


@dataclass(frozen=True)
class Purge:
    operator: TurnOperator
    clock: Clock
    tenant_id: UUID
    user_id: UUID | None

    async def count(self) -> dict[str, int]:
        """What there is, by kind."""
        async with self.operator.sessions() as session:
            return await self._scope(session).count()

    async def run(self) -> dict[str, int]:
        """Remove it; how much of what. Raises what the servers raise: run it again."""
        done = Counter[str]()
        done["chats_deleted"] = await self._delete_chats()
        done["chats_marked"] = await self._repeat(PurgeScope.end_grace)
        await self._wait_for_turns()
        done["quota_rows_deleted"] = await self._repeat(PurgeScope.delete_quotas)
        done["reactions_deleted"] = await self._repeat(PurgeScope.delete_reactions)
        done["event_logs_deleted"] = await self._delete_logs()
        return dict(done)

    async def _delete_chats(self) -> int:
        deleted = 0
        while True:
            async with self.operator.sessions() as session:
                chats = await self._scope(session).list_live_chats()
            if not chats:
                return deleted
            for chat in chats:
                with suppress(ChatNotFoundError):  # its owner was quicker
                    await delete_chat(
                        ChatId(chat.id),
                        tenant_id=TenantId(self.tenant_id),
                        user_id=UserId(chat.user_id),
                        sessions=self.operator.sessions,
                        clock=self.clock,
                        stopper=self.operator.stopper,
                    )
                    deleted += 1

    async def _repeat(self, step: Callable[[PurgeScope], Awaitable[int]]) -> int:
        total = 0
        while True:
            async with self.operator.sessions.begin() as session:
                gone = await step(self._scope(session))
            total += gone
            if gone < BATCH:
                return total

    async def _wait_for_turns(self) -> None:
        """Return once no turn runs, or it has been waited for long enough."""
        with suppress(TimeoutError):
            async with asyncio.timeout(TURNS_END_WITHIN.total_seconds()):
                is_running = True
                while is_running:
                    await asyncio.sleep(_LOOK_SECS)
                    async with self.operator.sessions() as session:
                        is_running = await self._scope(session).is_any_running()

    async def _delete_logs(self) -> int:
        """Of turns that have ended; that of a running one would only be written anew."""
        deleted, last = 0, None
        while True:
            async with self.operator.sessions() as session:
                turns = await self._scope(session).list_ended_turns(after=last)
            if not turns:
                return deleted
            async with self.operator.valkey.pipeline(transaction=False) as pipeline:
                for _, keys in turns:
                    pipeline.unlink(keys.events)
                    pipeline.unlink(keys.cancel, keys.clients)
                answers: list[int] = await pipeline.execute()
            deleted += sum(answers[::2])
            last = turns[-1][0]

    def _scope(self, session: AsyncSession) -> PurgeScope:
        return PurgeScope(session, tenant_id=self.tenant_id, user_id=self.user_id)

"""Turns without a worker: accepted by the API's own code, ended by the one finalization, under a clock that is held."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
from sqlalchemy import func

from api.auth import Principal
from api.context import ApiContext
from api.turns.preflight import Accepted, TurnRequest
from api.turns.submit import submit_turn
from shared.chats.tables import Chat
from shared.ids import ChatId, TenantId, UserId, new_uuid4, new_uuid7
from shared.turns.finalize import Finalized, TurnFinalizer
from shared.turns.lifecycle import Ending
from shared.turns.tables import Turn
from tests.support.api import api_settings, running_api
from tests.support.books import find_differences, read_buckets
from tests.support.catalogs import STANDARD, write_catalog
from tests.support.tokens import Caller
from tests.support.turn_rows import change_turn


@dataclass
class HeldClock:
    """Stands still until it is moved."""

    moment: datetime

    def now(self) -> datetime:
        return self.moment


@dataclass
class Ledger:
    context: ApiContext
    finalizer: TurnFinalizer
    clock: HeldClock
    database: asyncpg.Connection
    given: list[tuple[UUID, str, str, int]] = field(default_factory=list)

    async def new_chat(self, caller: Caller, *, model: str = STANDARD) -> UUID:
        now = self.clock.now()
        chat = Chat(
            id=new_uuid7(),
            tenant_id=caller.tenant_id,
            user_id=caller.user_id,
            model=model,
            title="?",
            created_at=now,
            updated_at=now,
        )
        async with self.context.sessions.begin() as session:
            session.add(chat)
        return chat.id

    async def send(
        self,
        caller: Caller,
        chat_id: UUID,
        content: str = "?",
        *,
        attachment_ids: tuple[UUID, ...] = (),
        is_web_search_wanted: bool = False,
    ) -> Turn:
        """Accept a turn; it raises what a send is refused with."""
        request = TurnRequest(
            chat_id=ChatId(chat_id),
            request_id=new_uuid4(),
            content=content,
            attachment_ids=attachment_ids,
            is_web_search_wanted=is_web_search_wanted,
            on_disconnect="continue",
            on_worker_loss="restart",
        )
        accepted = await submit_turn(request, principal_of(caller), self.context, may_attach=False)
        assert isinstance(accepted, Accepted)
        return accepted.turn

    async def claim(self, turn: Turn, *, attempt: int = 1) -> None:
        """Have the provider asked, as far as the row tells."""
        await change_turn(self.context.sessions, turn, attempt=attempt, lease_expires_at=func.now())

    async def end(self, turn: Turn, ending: Ending, *, attempt: int = 0) -> Finalized | None:
        return await self.finalizer.finalize(turn, ending, attempt=attempt)

    async def buckets(self, caller: Caller) -> dict[tuple[str, str], asyncpg.Record]:
        return await read_buckets(self.database, caller.user_id)

    async def differences(self) -> list[str]:
        return await find_differences(self.database, given=self.given)


def principal_of(caller: Caller) -> Principal:
    return Principal(TenantId(caller.tenant_id), UserId(caller.user_id), frozenset(), frozenset())


@asynccontextmanager
async def open_ledger(
    tree: dict[str, Any], *, database_url: str, valkey_url: str, folder: Path, **changes: Any
) -> AsyncIterator[Ledger]:
    """A ledger under the catalog `tree`, on a day in the middle of its month."""
    path = write_catalog(tree, folder)
    changes = {"catalog": {"path": path}} | changes
    settings = api_settings(database_url=database_url, valkey_url=valkey_url, **changes)
    async with running_api(settings) as api:
        clock = HeldClock(datetime(2026, 3, 14, 12, tzinfo=UTC))
        context = replace(api.context, clock=clock)
        connection = await asyncpg.connect(database_url)
        try:
            yield Ledger(
                context, TurnFinalizer(context.sessions, context.policies, settings, context.metrics), clock, connection
            )
        finally:
            await connection.close()

"""`mini-chat purge`: what goes, what stays, and what workers do afterwards."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import func, select, update

from shared.attachments.tables import Attachment, ChatVectorStore
from shared.chats.tables import Chat
from shared.clock import SystemClock
from shared.db.engine import Sessions
from shared.ids import new_uuid4, new_uuid7
from shared.messages.tables import Message
from shared.outbox.messages import AUDIT, CHAT_CLEANUP, USAGE_SNAPSHOT
from shared.outbox.tables import OutboxDeadLetter, OutboxMessage
from shared.purge import purge, scope
from shared.quotas.tables import QuotaUsage
from shared.reactions.tables import MessageReaction
from shared.settings import Settings
from shared.turns.tables import Turn
from shared.valkey.client import Valkey
from shared.valkey.keyspace import TurnKeys
from tests.support.commands import Outcome, mini_chat, variables_of
from tests.support.outbox_rows import insert_messages, stored_messages
from tests.support.turn_rows import change_turn, insert_turn
from worker.retention import Purge as Retention

NOW: datetime = SystemClock().now()


@dataclass(frozen=True)
class Owner:
    tenant_id: UUID = field(default_factory=new_uuid4)
    user_id: UUID = field(default_factory=new_uuid4)


@dataclass
class World:
    sessions: Sessions
    valkey: Valkey
    settings: Settings

    async def turn(self, owner: Owner, **columns: Any) -> Turn:
        """A chat of the owner with a turn that has ended unless told, an answer, a reaction and an event log."""
        turn = await insert_turn(
            self.sessions, **({"tenant_id": owner.tenant_id, "requester_user_id": owner.user_id} | columns)
        )
        if "state" not in columns:
            await change_turn(self.sessions, turn, state="completed", completed_at=NOW)
        answer = Message(
            id=new_uuid4(),
            tenant_id=owner.tenant_id,
            chat_id=turn.chat_id,
            request_id=turn.request_id,
            role="assistant",
            content="!",
            created_at=NOW,
        )
        async with self.sessions.begin() as session:
            session.add(answer)
            await session.flush()
            session.add(
                MessageReaction(
                    id=new_uuid4(),
                    tenant_id=owner.tenant_id,
                    user_id=owner.user_id,
                    chat_id=turn.chat_id,
                    message_id=answer.id,
                    reaction="like",
                    created_at=NOW,
                )
            )
        await self.valkey.xadd(TurnKeys(turn.chat_id, turn.request_id).events, {"e": "delta", "f": "x"}, id="1-1")
        return turn

    async def quota(self, owner: Owner) -> None:
        async with self.sessions.begin() as session:
            session.add(
                QuotaUsage(
                    id=new_uuid7(),
                    tenant_id=owner.tenant_id,
                    user_id=owner.user_id,
                    period_type="daily",
                    period_start=NOW.date(),
                    bucket="total",
                    spent_credits_micro=5,
                    updated_at=NOW,
                )
            )

    async def attachment(self, turn: Turn, **columns: Any) -> UUID:
        row = Attachment(
            id=new_uuid4(),
            tenant_id=turn.tenant_id,
            chat_id=turn.chat_id,
            uploaded_by_user_id=new_uuid4(),
            filename="a.txt",
            content_type="text/plain",
            size_bytes=1,
            storage_backend="openai",
            provider_file_id=f"file-{new_uuid4()}",
            status="ready",
            attachment_kind="document",
            created_at=NOW,
            **columns,
        )
        async with self.sessions.begin() as session:
            session.add(row)
        return row.id

    async def purge(self, owner: Owner, *arguments: str, of_user: bool = False) -> Outcome:
        whose = ["--tenant", str(owner.tenant_id)] + (["--user", str(owner.user_id)] if of_user else [])
        return await mini_chat("purge", *whose, *arguments, variables=variables_of(self.settings))

    async def count(self, table: type[Any], owner: Owner) -> int:
        query = select(func.count()).select_from(table).where(table.tenant_id == owner.tenant_id)
        async with self.sessions() as session:
            return await session.scalar(query) or 0

    async def has_log(self, turn: Turn) -> bool:
        return bool(await self.valkey.exists(TurnKeys(turn.chat_id, turn.request_id).events))

    async def settle_cleanup(self) -> None:
        """What the cleanup at the provider leaves behind once it is done."""
        async with self.sessions.begin() as session:
            await session.execute(update(Attachment).values(cleanup_status="done"))
            await session.execute(
                update(OutboxMessage).where(OutboxMessage.queue == CHAT_CLEANUP).values(delivered_at=func.now())
            )


@pytest.fixture
def world(sessions: Sessions, valkey: Valkey, settings: Settings) -> World:
    return World(sessions, valkey, settings)


async def test_everything_of_a_tenant_goes_and_nothing_of_others(world: World) -> None:
    owner, stranger = Owner(), Owner()
    colleague = Owner(tenant_id=owner.tenant_id)
    turns = [await world.turn(one) for one in (owner, owner, colleague)]
    kept = await world.turn(stranger)
    for one in (owner, colleague, stranger):
        await world.quota(one)
    file = await world.attachment(turns[0])

    outcome = await world.purge(owner, "--yes", "--json")
    assert outcome.code == 0, outcome.err
    done = {"chats_deleted": 3, "chats_marked": 3, "quota_rows_deleted": 2, "reactions_deleted": 3}
    assert outcome.json["done"].items() >= done.items()
    left = {name: count for name, count in outcome.json["left"].items() if count}
    assert left == {"deleted_chats": 3, "provider_files": 1, "undelivered_messages": 3}
    async with world.sessions() as session:
        assert (await session.get_one(Attachment, file)).cleanup_status == "pending"
    assert {one.queue for one in await stored_messages(world.sessions)} == {CHAT_CLEANUP}
    assert not any([await world.has_log(turn) for turn in turns])

    assert await world.has_log(kept)
    assert [await world.count(table, stranger) for table in (Chat, QuotaUsage, MessageReaction)] == [1, 1, 1]

    # Once the provider's side is clean, the rows go with the next pass of a worker, long before their grace is over.
    await world.settle_cleanup()
    await Retention(world.settings, world.sessions).run()
    assert [await world.count(table, owner) for table in (Chat, Message, Turn, Attachment)] == [0, 0, 0, 0]
    assert [await world.count(table, stranger) for table in (Chat, Message, Turn)] == [1, 2, 1]


async def test_of_a_user_nothing_of_colleagues_goes(world: World) -> None:
    owner = Owner()
    colleague = Owner(tenant_id=owner.tenant_id)
    mine, theirs = await world.turn(owner), await world.turn(colleague)
    await world.quota(owner)
    await world.quota(colleague)
    outcome = await world.purge(owner, "--yes", "--json", of_user=True)
    assert outcome.code == 0
    assert outcome.json["done"]["chats_deleted"] == 1
    async with world.sessions() as session:
        live = set(await session.scalars(select(Chat.id).where(Chat.deleted_at.is_(None))))
    assert live == {theirs.chat_id}
    assert await world.count(QuotaUsage, owner) == await world.count(MessageReaction, owner) == 1
    assert (await world.has_log(mine), await world.has_log(theirs)) == (False, True)


async def test_events_are_counted_when_the_rows_of_their_chats_have_gone(world: World) -> None:
    """Usage and audit events still go out, so a user has messages left for as long as one names them."""
    owner = Owner()
    colleague = Owner(tenant_id=owner.tenant_id)
    for one, member in ((owner, "user_id"), (owner, "actor_user_id"), (colleague, "user_id")):
        payload = {"tenant_id": str(one.tenant_id), "chat_id": str(new_uuid7()), member: str(one.user_id)}
        (message,) = await insert_messages(world.sessions, "event", queue=AUDIT, key=member)
        async with world.sessions.begin() as session:
            await session.execute(update(OutboxMessage).where(OutboxMessage.id == message.id).values(payload=payload))
    outcome = await world.purge(owner, "--dry-run", "--json", of_user=True)
    assert outcome.json["there_is"]["undelivered_messages"] == 2


async def test_running_turns_are_stopped_and_what_they_cost_is_told(world: World) -> None:
    """The usage event of a turn that is stopped stays until it is delivered; so does what was there before."""
    owner = Owner()
    reserve = {"reserve_tokens": 1_000, "reserved_credits_micro": 9_000, "policy_version_applied": 1}
    floor = {"minimal_generation_floor_applied": 50, "daily_period_start": NOW.date()}
    turn = await world.turn(owner, state="running", monthly_period_start=NOW.date().replace(day=1), **reserve, **floor)
    await insert_messages(world.sessions, "earlier", queue=USAGE_SNAPSHOT, key=str(turn.chat_id), dedupe_key="d")
    outcome = await world.purge(owner, "--yes", "--json")
    assert outcome.code == 0, outcome.out
    async with world.sessions() as session:
        assert (await session.get_one(Turn, turn.id)).state == "cancelled"
    assert not await world.has_log(turn)
    assert await world.count(QuotaUsage, owner) == 0
    queues = [one.queue for one in await stored_messages(world.sessions) if one.delivered_at is None]
    assert sorted(queues) == sorted([USAGE_SNAPSHOT, USAGE_SNAPSHOT, AUDIT, CHAT_CLEANUP])


async def test_a_turn_whose_worker_does_not_end_it_is_told_and_done_next_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until then its user's quota stays, as the end of the turn would write it anew, and so does its log."""
    monkeypatch.setattr(purge, "TURNS_END_WITHIN", timedelta(seconds=0.1))
    owner = Owner()
    lease = {"attempt": 1, "lease_owner": "w", "lease_expires_at": NOW + timedelta(hours=1)}
    turn = await world.turn(owner, state="running", **lease)
    await world.quota(owner)
    outcome = await world.purge(owner, "--yes")
    assert outcome.code == 1
    assert "mini-chat: 1 running turns do not end" in outcome.err
    assert await world.count(QuotaUsage, owner) == 1
    assert await world.has_log(turn)

    await change_turn(world.sessions, turn, lease_expires_at=None, state="cancelled", completed_at=NOW)
    assert (await world.purge(owner, "--yes")).code == 0
    assert await world.count(QuotaUsage, owner) == 0
    assert not await world.has_log(turn)


async def test_a_second_purge_changes_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches and all: more rows than one of them holds."""
    monkeypatch.setattr(scope, "BATCH", 2)
    monkeypatch.setattr(purge, "BATCH", 2)
    owner = Owner()
    turns = [await world.turn(owner) for _ in range(5)]
    first, second = [(await world.purge(owner, "--yes", "--json")).json for _ in range(2)]
    assert first["done"]["chats_deleted"] == 5
    assert not any([await world.has_log(turn) for turn in turns])
    assert set(second["done"].values()) == {0}
    assert second["left"] == first["left"]
    assert len(await stored_messages(world.sessions)) == 5


async def test_chats_that_their_owner_had_deleted_lose_their_grace(world: World) -> None:
    owner = Owner()
    turn = await world.turn(owner)
    async with world.sessions.begin() as session:
        await session.execute(update(Chat).where(Chat.id == turn.chat_id).values(deleted_at=NOW))
    assert (await world.purge(owner, "--yes", "--json")).json["done"]["chats_marked"] == 1
    await Retention(world.settings, world.sessions).run()
    assert await world.count(Chat, owner) == 0


async def test_what_keeps_chats_from_going_is_told(world: World) -> None:
    owner = Owner()
    turn = await world.turn(owner)
    await world.attachment(turn, cleanup_status="failed", deleted_at=NOW)
    place = {"tenant_id": owner.tenant_id, "chat_id": turn.chat_id}
    store = ChatVectorStore(id=new_uuid4(), provider="openai", created_at=NOW, **place)
    letter = OutboxDeadLetter(
        id=1,
        queue=CHAT_CLEANUP,
        partition_key=str(turn.chat_id),
        payload_type=CHAT_CLEANUP,
        payload={},
        attempts=5,
        created_at=NOW,
        failed_at=NOW,
    )
    async with world.sessions.begin() as session:
        session.add_all([store, letter])
    outcome = await world.purge(owner, "--yes")
    assert outcome.code == 1
    assert "1 failed provider files could not be deleted" in outcome.err
    assert "1 dead cleanups of chats became dead letters" in outcome.err


async def test_a_dry_run_only_counts(world: World) -> None:
    owner = Owner()
    turn = await world.turn(owner)
    outcome = await world.purge(owner, "--dry-run", "--json")
    assert outcome.code == 0
    there_is = {name: count for name, count in outcome.json["there_is"].items() if count}
    assert there_is == {"chats": 1, "reactions": 1}
    assert await world.has_log(turn)
    assert await stored_messages(world.sessions) == []


async def test_nothing_is_removed_without_a_yes(world: World) -> None:
    owner = Owner()
    await world.turn(owner)
    refused = await world.purge(owner)
    assert (refused.code, refused.out) == (2, "")
    assert "give --yes" in refused.err
    assert await stored_messages(world.sessions) == []


async def test_a_user_without_a_tenant_is_refused() -> None:
    refused = await mini_chat("purge", "--user", new_uuid4(), "--yes")
    assert refused.code == 2
    assert "--tenant" in refused.err

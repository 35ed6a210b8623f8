"""Policies out of a file: stored before they are used, replaced while they are used, found again by their version."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import select, text, update

from shared.db.engine import Sessions
from shared.errors import UnavailableError
from shared.ids import new_uuid4
from shared.model_catalog.catalog import Catalog
from shared.model_catalog.holder import CatalogHolder
from shared.model_catalog.source import load_catalog
from shared.policy.file_source import SNAPSHOTS_KEPT, FilePolicySource
from shared.policy.snapshots import content_hash, load_snapshot, store_snapshot
from shared.policy.source import PolicySource
from shared.quotas.buckets import BucketKey
from shared.quotas.tables import PolicySnapshot
from shared.settings import CatalogSettings, ConfigurationError, Settings
from tests.support.catalogs import PREMIUM, acceptance_catalog, write_catalog
from tests.support.clock import HeldClock
from tests.support.statements import noted_statements
from tests.support.waiting import wait_until

PREMIUM_OFF = {"kill_switches": {"disable_premium_tier": True}}
CLOCK = HeldClock()


class Source:
    """A file source as a process has it, and the file."""

    def __init__(self, settings: Settings, sessions: Sessions, clock: HeldClock = CLOCK) -> None:
        assert settings.catalog.path is not None
        self.path: Path = settings.catalog.path
        self.holder = CatalogHolder(load_catalog(settings))
        self.changes: list[Catalog] = []
        self.policies = FilePolicySource(
            settings,
            self.holder,
            sessions=sessions,
            clock=clock,
            on_change=self.changes.append,
        )

    def write(self, **changes: Any) -> None:
        write_catalog(acceptance_catalog() | changes, self.path.parent)


@pytest.fixture
async def source(settings: Settings, sessions: Sessions) -> Source:
    source = Source(settings, sessions)
    await source.policies.start()
    return source


async def stored_versions(sessions: Sessions) -> list[int]:
    async with sessions() as session:
        return sorted(await session.scalars(select(PolicySnapshot.policy_version)))


def is_in_force(source: Source, number: int) -> bool:
    return source.holder.current.policy_version == number


def version(number: int, **changes: Any) -> Catalog:
    return Catalog.model_validate(acceptance_catalog() | {"policy_version": number} | changes)


async def test_a_start_stores_the_policy_and_puts_it_in_force(settings: Settings, sessions: Sessions) -> None:
    source = Source(settings, sessions)
    with pytest.raises(UnavailableError):
        _ = source.holder.current
    with pytest.raises(UnavailableError):
        source.policies.current_version(new_uuid4(), new_uuid4())
    await source.policies.start()
    assert source.holder.current.policy_version == 1
    policies: PolicySource = source.policies
    assert policies.current_version(new_uuid4(), new_uuid4()) == 1
    async with sessions() as session:
        row = await session.get_one(PolicySnapshot, 1)
    assert row.content_hash == content_hash(source.holder.current)
    assert row.created_at == CLOCK.now()
    assert Catalog.model_validate(row.payload) == source.holder.current


async def test_many_processes_start_at_once(settings: Settings, sessions: Sessions) -> None:
    sources = [Source(settings, sessions) for _ in range(12)]
    await asyncio.gather(*(source.policies.start() for source in sources))
    assert all(source.holder.is_stored for source in sources)
    assert await stored_versions(sessions) == [1]


async def test_of_two_contents_of_one_version_one_starts(sessions: Sessions) -> None:
    outcomes = await asyncio.gather(
        store_snapshot(sessions, version(1), now=CLOCK.now()),
        store_snapshot(sessions, version(1, **PREMIUM_OFF), now=CLOCK.now()),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes if outcome is not None] == [ConfigurationError]
    assert len(await stored_versions(sessions)) == 1


async def test_a_start_with_other_content_under_a_stored_version_is_refused(
    source: Source, settings: Settings, sessions: Sessions
) -> None:
    source.write(**PREMIUM_OFF)
    second = Source(settings, sessions)
    with pytest.raises(ConfigurationError, match=r"catalog\.yaml: policy_version: 1 is stored with another content"):
        await second.policies.start()
    assert not second.holder.is_stored


async def test_an_older_file_starts_beside_a_newer_policy(sessions: Sessions, settings: Settings) -> None:
    """A rollout replaces processes one by one."""
    await store_snapshot(sessions, version(5), now=CLOCK.now())
    source = Source(settings, sessions)
    await source.policies.start()
    assert source.holder.current.policy_version == 1
    assert (await source.policies.snapshot(5)).policy_version == 5


async def test_a_reload_stores_then_replaces(source: Source, sessions: Sessions) -> None:
    source.write(policy_version=2, **PREMIUM_OFF)
    assert await source.policies.reload() == "changed"
    assert source.holder.current.policy_version == 2
    assert source.holder.current.kill_switches.disable_premium_tier
    assert await stored_versions(sessions) == [1, 2]
    assert [catalog.policy_version for catalog in source.changes] == [2]
    assert not (await source.policies.snapshot(1)).kill_switches.disable_premium_tier


async def test_an_unchanged_file_changes_nothing(source: Source) -> None:
    before = source.holder.current
    results = [await source.policies.reload(force=is_forced) for is_forced in (False, False, True)]
    assert source.holder.current is before
    assert (results, source.changes) == (["unchanged"] * 3, [])


async def test_providers_are_exchanged_under_the_same_version(source: Source) -> None:
    tree = acceptance_catalog(provider_port=4_242)
    source.write(providers=tree["providers"])
    await source.policies.reload()
    assert source.holder.current.providers["openai"].port == 4_242
    assert len(source.changes) == 1
    assert (await source.policies.snapshot(1)).providers["openai"].port == 4_242


@pytest.mark.parametrize(
    ("break_file", "reason"),
    [
        (lambda source: source.path.write_text("]"), "not valid YAML"),
        (lambda source: source.path.unlink(), "cannot be read"),
        (lambda source: source.write(policy_version=6, model_catalog=[]), "at least one model must be enabled"),
        (lambda source: source.write(policy_version=4), "4 is lower than 5"),
        (lambda source: source.write(policy_version=5, **PREMIUM_OFF), "5 is stored with another content"),
        (lambda source: source.write(policy_version=7), "7 is stored with another content"),
    ],
)
async def test_a_refused_reload_keeps_what_is_in_force(
    source: Source,
    sessions: Sessions,
    caplog: pytest.LogCaptureFixture,
    break_file: Callable[[Source], None],
    reason: str,
) -> None:
    source.write(policy_version=5)
    await source.policies.reload()
    await store_snapshot(sessions, version(7, **PREMIUM_OFF), now=CLOCK.now())
    before = source.holder.current
    break_file(source)
    assert await source.policies.reload() == "refused"
    assert source.holder.current is before
    assert source.holder.is_file_refused
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert reason in record.getMessage()
    source.write(policy_version=8)
    await source.policies.reload()
    assert source.holder.current.policy_version == 8
    assert not source.holder.is_file_refused


async def test_a_file_that_is_put_back_is_refused_no_longer(source: Source) -> None:
    source.write(**PREMIUM_OFF)
    assert await source.policies.reload() == "refused"
    source.write()
    assert await source.policies.reload() == "unchanged"
    assert not source.holder.is_file_refused


async def test_a_start_that_cannot_store_is_made_up_for(
    settings: Settings, sessions: Sessions, caplog: pytest.LogCaptureFixture
) -> None:
    """The process lives and accepts nothing; as soon as the policy can be stored, it does."""
    async with sessions.begin() as session:
        await session.execute(text("ALTER TABLE policy_snapshots RENAME TO not_there_yet"))
    source = Source(settings, sessions)
    await source.policies.start()
    async with asyncio.TaskGroup() as tasks:
        keeping = tasks.create_task(source.policies.keep_current())
        await wait_until(lambda: "the catalog cannot be reloaded now" in caplog.text)
        assert not source.holder.is_stored
        async with sessions.begin() as session:
            await session.execute(text("ALTER TABLE not_there_yet RENAME TO policy_snapshots"))
        await wait_until(lambda: source.holder.is_stored)
        keeping.cancel()
    assert await stored_versions(sessions) == [1]


async def test_the_file_is_looked_at_by_the_clock_and_when_asked(settings: Settings, sessions: Sessions) -> None:
    assert settings.catalog.path is not None
    for interval in (0.05, 0.0):
        source = Source(
            settings.model_copy(update={"catalog": CatalogSettings(path=settings.catalog.path, reload_secs=interval)}),
            sessions,
        )
        await source.policies.start()
        new = source.holder.current.policy_version + 1
        async with asyncio.TaskGroup() as tasks:
            keeping = tasks.create_task(source.policies.keep_current())
            source.write(policy_version=new)
            if not interval:
                source.policies.ask_for_reload()
            await wait_until(partial(is_in_force, source, new))
            keeping.cancel()


async def test_a_snapshot_is_read_once(source: Source, sessions: Sessions) -> None:
    await store_snapshot(sessions, version(9, **PREMIUM_OFF), now=CLOCK.now())
    with noted_statements(sessions.kw["bind"].sync_engine) as statements:
        assert await source.policies.snapshot(1) is source.holder.current
        assert not statements
        first = await source.policies.snapshot(9)
        asked = len(statements)
        assert await source.policies.snapshot(9) is first
        assert len(statements) == asked > 0
    assert first == version(9, **PREMIUM_OFF)


async def test_memory_for_snapshots_is_bounded(source: Source, sessions: Sessions) -> None:
    for number in range(10, 11 + SNAPSHOTS_KEPT):
        await store_snapshot(sessions, version(number), now=CLOCK.now())
        await source.policies.snapshot(number)
    with noted_statements(sessions.kw["bind"].sync_engine) as statements:
        assert (await source.policies.snapshot(10)).policy_version == 10
        assert statements
        assert (await source.policies.snapshot(1)).policy_version == 1


async def test_a_version_that_never_was(source: Source) -> None:
    with pytest.raises(LookupError, match="policy version 99 is unknown"):
        await source.policies.snapshot(99)


async def test_members_that_a_newer_release_knows_are_skipped(sessions: Sessions) -> None:
    await store_snapshot(sessions, version(3), now=CLOCK.now())
    payload = version(3).model_dump(mode="json")
    payload["novelty"] = 1
    payload["model_catalog"][0]["general_config"]["tool_support"]["novelty"] = True
    async with sessions.begin() as session:
        await session.execute(update(PolicySnapshot).values(payload=payload))
    assert await load_snapshot(sessions, 3) == version(3)


async def test_no_secret_is_stored(settings: Settings, sessions: Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", "swordfish")
    tree = acceptance_catalog()
    tree["providers"]["openai"] |= {"auth_header": "Authorization", "auth_secret": "env:A_KEY"}
    assert settings.catalog.path is not None
    settings.catalog.path.write_text(yaml.safe_dump(tree))
    await Source(settings, sessions).policies.start()
    async with sessions() as session:
        payload = str(await session.scalar(select(PolicySnapshot.payload)))
    assert "env:A_KEY" in payload
    assert "swordfish" not in payload


async def test_limits_are_those_of_the_version_and_kept_for_a_minute(settings: Settings, sessions: Sessions) -> None:
    clock = HeldClock()
    source = Source(settings, sessions, clock)
    await source.policies.start()
    tenant, user = new_uuid4(), new_uuid4()
    mine = {"limit_daily_credits_micro": 7, "limit_monthly_credits_micro": 8}
    await store_snapshot(sessions, version(2, user_limits=[{"user_id": str(user), "premium": mine}]), now=clock.now())
    today = BucketKey("daily", "tier:premium")
    assert (await source.policies.limits(tenant, user, 1))[today] == 50_000_000
    first = await source.policies.limits(tenant, user, 2)
    assert first[today] == 7
    assert (await source.policies.limits(tenant, new_uuid4(), 2))[today] == 50_000_000
    clock.move(timedelta(seconds=59))
    assert await source.policies.limits(tenant, user, 2) is first
    clock.move(timedelta(seconds=1))
    assert await source.policies.limits(tenant, user, 2) is not first


async def test_the_log_is_where_usage_ends(source: Source, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    await source.policies.publish_usage({"effective_model": PREMIUM})
    assert caplog.records[-1].__dict__["event"] == {"effective_model": PREMIUM}

"""What `mini-chat doctor` finds in real servers. The way through proxies: `tests/e2e/test_doctor.py`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from shared.clock import SystemClock
from shared.db.engine import Sessions
from shared.doctor.clocks import check_clock
from shared.doctor.redis_server import check_redis
from shared.ids import new_uuid4
from shared.model_catalog.catalog import Catalog
from shared.outbox.tables import OutboxDeadLetter
from shared.policy.snapshots import store_snapshot
from shared.settings import Settings
from shared.valkey.client import Valkey, open_valkey
from shared.valkey.keyspace import CANCEL_CHANNEL
from tests.integration.doctor.conftest import Doctor, Provider
from tests.support.outbox_rows import insert_messages
from tests.support.turn_rows import insert_turn

NOW = SystemClock().now()


@pytest.fixture
async def valkey(settings: Settings) -> AsyncIterator[Valkey]:
    async with open_valkey(settings.redis) as client:
        yield client


@asynccontextmanager
async def configured(valkey: Valkey, name: str, value: str) -> AsyncIterator[None]:
    """The server with another configuration for the length of the block."""
    [before] = (await valkey.config_get(name)).values()
    await valkey.config_set(name, value)
    try:
        yield
    finally:
        await valkey.config_set(name, before)


@asynccontextmanager
async def listening_worker(valkey: Valkey) -> AsyncIterator[None]:
    async with valkey.pubsub() as subscriber:
        await subscriber.subscribe(CANCEL_CHANNEL)
        yield


async def test_a_healthy_system_is_exit_code_0(doctor: Doctor, valkey: Valkey) -> None:
    async with listening_worker(valkey), configured(valkey, "appendonly", "yes"):
        outcome = await doctor.run(AUTH__JWT__ISSUER="them", AUTH__JWT__AUDIENCE="us")
    assert outcome.code == 0, outcome.out
    *lines, empty, totals = outcome.out.splitlines()
    assert {line.split()[0] for line in lines} == {"ok"}
    assert (empty, totals) == ("", f"0 failed, 0 warnings, {len(lines)} fine")


@pytest.mark.parametrize(
    ("policy", "status", "code"), [("allkeys-lru", "fail", 1), ("volatile-lru", "warn", 0), ("noeviction", "ok", 0)]
)
async def test_a_server_that_evicts_is_found(
    doctor: Doctor, valkey: Valkey, policy: str, status: str, code: int
) -> None:
    async with listening_worker(valkey), configured(valkey, "maxmemory-policy", policy):
        outcome = await doctor.run("--json")
    [finding] = [one for one in outcome.json["findings"] if one["check"] == "redis eviction"]
    assert finding["status"] == status
    assert policy in finding["seen"]
    assert outcome.code == code
    assert ("noeviction" in finding["change"]) == (status != "ok")


async def test_strict_lets_warnings_count(doctor: Doctor, valkey: Valkey) -> None:
    async with listening_worker(valkey):
        assert (await doctor.run()).code == 0
        strict = await doctor.run("--strict")
    assert strict.code == 1
    assert "warn  redis persistence" in strict.out


async def test_a_missing_migration_is_found(doctor: Doctor, database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    await connection.execute("UPDATE alembic_version SET version_num = '0001'")
    found = (await doctor.findings())["migrations"]
    assert (found["status"], found["change"]) == ("fail", "run `mini-chat migrate`")
    assert found["seen"].startswith("the schema is at 0001, this build needs ")
    await connection.execute("DROP TABLE alembic_version")
    findings = await doctor.findings()
    assert findings["migrations"]["seen"].startswith("no schema, ")
    assert "dead letters" not in findings
    await connection.execute("CREATE TABLE alembic_version AS SELECT '9999' AS version_num")
    await connection.close()
    assert (await doctor.findings())["migrations"]["status"] == "ok"


async def test_pools_that_do_not_fit_are_found(doctor: Doctor) -> None:
    found = (await doctor.findings(DATABASE__POOL_SIZE="200"))["connections"]
    assert found["status"] == "fail"
    assert "pools of 200 fit" in found["seen"]
    assert "max_connections" in found["change"]


async def test_a_provider_that_refuses_the_key_is_found(
    doctor: Doctor, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROVIDER_KEY", "sk-s3cr3t")
    auth = {"auth_header": "Authorization", "auth_prefix": "Bearer ", "auth_secret": "env:PROVIDER_KEY"}
    doctor.catalog["providers"]["openai"] |= auth
    provider.wanted_key = "another"
    outcome = await doctor.run()
    assert outcome.code == 1
    assert f"fail  provider openai         127.0.0.1:{provider.port} refuses the key (401)" in outcome.out
    assert f"fail  provider azure_openai   127.0.0.1:{provider.port} wants a key, and none is configured" in outcome.out
    assert "s3cr3t" not in outcome.out
    assert sorted(provider.requests) == ["GET /openai/v1/models?api-version=v1", "GET /v1/models"]
    provider.wanted_key = "sk-s3cr3t"
    assert (await doctor.findings())["provider openai"]["seen"].endswith("takes the key")


async def test_a_tenant_with_a_key_of_its_own_is_asked_for_with_that(
    doctor: Doctor, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROVIDER_KEY", "of all")
    monkeypatch.setenv("TENANT_KEY", "of one")
    tenant_id = str(new_uuid4())
    doctor.catalog["providers"]["openai"] |= {
        "auth_header": "Authorization",
        "auth_prefix": "Bearer ",
        "auth_secret": "env:PROVIDER_KEY",
        "tenant_overrides": {tenant_id: {"host": "localhost", "auth_secret": "env:TENANT_KEY"}},
    }
    provider.wanted_key = "of one"
    findings = await doctor.findings()
    assert findings["provider openai"]["status"] == "fail"
    assert findings[f"provider openai of tenant {tenant_id}"]["status"] == "ok"


@pytest.mark.parametrize(
    ("status", "expected", "seen"),
    [
        (404, "ok", "it has no list of models, so whether it takes the key is not known"),
        (429, "warn", "it throttles us"),
        (503, "fail", "answers 503"),
    ],
)
async def test_what_a_provider_answers_is_told(
    doctor: Doctor, provider: Provider, status: int, expected: str, seen: str
) -> None:
    provider.status = status
    found = (await doctor.findings())["provider openai"]
    assert found["status"] == expected
    assert seen in found["seen"]


async def test_a_provider_out_of_reach_is_found(doctor: Doctor) -> None:
    doctor.catalog["providers"]["openai"]["port"] = 9
    found = (await doctor.findings())["provider openai"]
    assert (found["status"], found["change"]) == ("fail", "check host, port, TLS and firewalls")
    assert found["seen"].startswith("127.0.0.1:9 cannot be reached")


async def test_a_catalog_that_breaks_a_rule_is_found(doctor: Doctor) -> None:
    doctor.catalog["model_catalog"] = []
    found = (await doctor.findings())["catalog"]
    assert found["status"] == "fail"
    assert "at least one model must be enabled" in found["seen"]


async def test_a_catalog_that_was_changed_under_its_version_is_found(doctor: Doctor, sessions: Sessions) -> None:
    """Processes refuse it, so what somebody wanted is not in force."""
    assert (await doctor.findings())["policy"]["seen"] == "version 1 is new"
    await store_snapshot(sessions, Catalog.model_validate(doctor.catalog), now=NOW)
    assert (await doctor.findings())["policy"]["seen"] == "version 1 is stored"
    doctor.catalog["kill_switches"] = {"disable_premium_tier": True}
    found = (await doctor.findings())["policy"]
    assert (found["status"], found["change"]) == ("fail", "raise policy_version in the catalog")


async def test_work_that_nobody_does_is_found(doctor: Doctor, sessions: Sessions) -> None:
    lease = NOW + timedelta(hours=1)
    await insert_turn(sessions, age=timedelta(minutes=10))
    await insert_turn(sessions, age=timedelta(minutes=10), attempt=1, lease_owner="w", lease_expires_at=lease)
    await insert_messages(sessions, "late", available_at=NOW - timedelta(minutes=10))
    async with sessions.begin() as session:
        letter = {"queue": "usage_snapshot", "partition_key": "k", "payload_type": "t", "payload": {}, "attempts": 20}
        session.add(OutboxDeadLetter(id=1, created_at=NOW, failed_at=NOW, **letter))
    findings = await doctor.findings()
    named = ("workers", "queue", "stuck turns", "outbox", "dead letters")
    assert {name: findings[name]["status"] for name in named} == {
        "workers": "fail",
        "queue": "warn",
        "stuck turns": "fail",
        "outbox": "warn",
        "dead letters": "fail",
    }
    assert findings["queue"]["seen"].startswith("1 running, 1 waiting, the oldest for 60")
    assert findings["dead letters"]["seen"] == "1 in usage_snapshot"


async def test_servers_that_are_away_are_two_findings_among_others(doctor: Doctor) -> None:
    findings = await doctor.findings(
        DATABASE__URL="postgresql://u:s3cr3t@127.0.0.1:9/x", REDIS__URL="redis://:s3cr3t@127.0.0.1:9/0"
    )
    assert [findings[name]["status"] for name in ("postgresql", "redis", "catalog")] == ["fail", "fail", "ok"]
    assert "s3cr3t" not in str(findings)


async def test_an_api_that_is_away_is_found(doctor: Doctor) -> None:
    found = (await doctor.findings("--url", "http://u:s3cr3t@127.0.0.1:9"))["api"]
    assert found["status"] == "fail"
    assert "s3cr3t" not in str(found)


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["--url", "ftp://x"], "must be http:// or https://"),
        (["--silence", "71"], "must be between 0 and 70"),
        (["--token", "env:NO_SUCH_TOKEN"], "--token: env:NO_SUCH_TOKEN is missing or empty"),
    ],
)
async def test_wrong_use_is_exit_code_2(doctor: Doctor, arguments: list[str], hint: str) -> None:
    refused = await doctor.run(*arguments)
    assert refused.code == 2
    assert hint in refused.err


@pytest.mark.parametrize(
    ("changes", "check", "status"),
    [
        ({"redis_mode": "cluster"}, "redis", "fail"),
        ({"role": "slave"}, "redis", "fail"),
        ({"redis_version": "6.0.16"}, "redis", "fail"),
        ({"maxmemory": 1_000, "used_memory": 800}, "redis memory", "warn"),
        ({"maxmemory": 1_000, "used_memory": 950}, "redis memory", "fail"),
        ({"aof_last_write_status": "err"}, "redis persistence", "fail"),
        ({"loading": 1}, "redis persistence", "fail"),
    ],
)
async def test_a_server_that_will_not_do_is_found(
    valkey: Valkey, changes: dict[str, Any], check: str, status: str
) -> None:
    """What no server of the tests can be made to be, in the answer of a real one."""
    info = await valkey.info()
    assert {one.check: one.status for one in check_redis(info)}[check] in ("ok", "warn")
    assert {one.check: one.status for one in check_redis(info | changes)}[check] == status


@pytest.mark.parametrize(
    ("offset_secs", "took_secs", "status"),
    [(0, 0, "ok"), (3, 0, "warn"), (-3, 0, "warn"), (60, 0, "fail"), (3, 5, "ok")],
)
def test_a_clock_is_judged_by_what_the_question_does_not_explain(offset_secs: int, took_secs: int, status: str) -> None:
    answered_at = NOW + timedelta(seconds=took_secs)
    theirs = NOW + timedelta(seconds=offset_secs)
    assert check_clock("x", theirs, asked_at=NOW, answered_at=answered_at).status == status

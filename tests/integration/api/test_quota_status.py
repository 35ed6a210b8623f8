"""What is left, as `GET /quota/status` tells it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import insert

from shared.ids import new_uuid7
from shared.quotas.tables import QuotaUsage
from shared.settings import Settings
from tests.support.api import RunningApi, running_api
from tests.support.catalogs import acceptance_catalog, write_catalog
from tests.support.clock import HeldClock
from tests.support.problems import assert_problem
from tests.support.tokens import Caller

CLOCK = HeldClock(datetime(2028, 2, 29, 23, 59, 59, tzinfo=UTC))
TODAY, THIS_MONTH = date(2028, 2, 29), date(2028, 2, 1)
TOMORROW = "2028-03-01T00:00:00.000000Z"


@pytest.fixture
async def api(settings: Settings) -> AsyncIterator[RunningApi]:
    async with running_api(settings, clock=CLOCK) as running:
        yield running


def untouched(period: str, limit: int) -> dict[str, Any]:
    return {
        "period": period,
        "limit_credits_micro": limit,
        "used_credits_micro": 0,
        "remaining_credits_micro": limit,
        "remaining_percentage": 100,
        "next_reset": TOMORROW,
        "warning": False,
        "exhausted": False,
    }


async def add_usage(
    api: RunningApi,
    caller: Caller,
    period: str,
    start: date,
    *,
    bucket: str = "total",
    spent: int = 0,
    reserved: int = 0,
) -> None:
    async with api.context.sessions.begin() as session:
        await session.execute(
            insert(QuotaUsage).values(
                id=new_uuid7(),
                tenant_id=caller.tenant_id,
                user_id=caller.user_id,
                period_type=period,
                period_start=start,
                bucket=bucket,
                spent_credits_micro=spent,
                reserved_credits_micro=reserved,
                updated_at=CLOCK.now(),
            )
        )


async def test_a_new_user_has_everything(client: httpx.AsyncClient) -> None:
    answer = await client.get("/quota/status")
    assert answer.status_code == 200
    assert answer.json() == {
        "tiers": [
            {"tier": "premium", "periods": [untouched("daily", 50_000_000), untouched("monthly", 500_000_000)]},
            {"tier": "total", "periods": [untouched("daily", 100_000_000), untouched("monthly", 1_000_000_000)]},
        ],
        "warning_threshold_pct": 80,
    }


async def test_what_is_spent_and_what_is_reserved_is_used(
    api: RunningApi, client: httpx.AsyncClient, ann: Caller
) -> None:
    await add_usage(api, ann, "daily", TODAY, bucket="tier:premium", spent=1_000, reserved=250)
    await add_usage(api, ann, "daily", TODAY, spent=99_500_000)
    await add_usage(api, ann, "monthly", THIS_MONTH, spent=850_000_000)
    await add_usage(api, ann, "daily", date(2028, 2, 28), bucket="tier:premium", spent=7)
    await add_usage(api, ann, "monthly", date(2028, 1, 1), spent=7)
    await add_usage(api, Caller(tenant_id=ann.tenant_id), "daily", TODAY, spent=7)
    await add_usage(api, Caller(user_id=ann.user_id), "daily", TODAY, spent=7)
    premium, total = (await client.get("/quota/status")).json()["tiers"]
    assert premium["periods"][0] == untouched("daily", 50_000_000) | {
        "used_credits_micro": 1_250,
        "remaining_credits_micro": 49_998_750,
        "remaining_percentage": 99,
    }
    assert premium["periods"][1] == untouched("monthly", 500_000_000)
    assert total["periods"][0] == untouched("daily", 100_000_000) | {
        "used_credits_micro": 99_500_000,
        "remaining_credits_micro": 500_000,
        "remaining_percentage": 0,
        "warning": True,
        "exhausted": True,
    }
    assert total["periods"][1] == untouched("monthly", 1_000_000_000) | {
        "used_credits_micro": 850_000_000,
        "remaining_credits_micro": 150_000_000,
        "remaining_percentage": 15,
        "warning": True,
    }


async def test_a_user_s_own_limits_count_and_what_has_none_is_left_out(
    api: RunningApi, client: httpx.AsyncClient, ann: Caller, tmp_path: Path
) -> None:
    mine = {
        "user_id": str(ann.user_id),
        "standard": {"limit_daily_credits_micro": 10, "limit_monthly_credits_micro": 0},
        "premium": {"limit_daily_credits_micro": -1, "limit_monthly_credits_micro": 0},
    }
    write_catalog(acceptance_catalog() | {"policy_version": 2, "user_limits": [mine]}, tmp_path)
    await api.context.policies.reload()
    assert (await client.get("/quota/status")).json()["tiers"] == [
        {"tier": "total", "periods": [untouched("daily", 10)]}
    ]
    async with api.client(Caller()) as other:
        assert len((await other.get("/quota/status")).json()["tiers"]) == 2


@pytest.mark.parametrize(
    ("scope", "status"), [("ai:mini_chat:read", 200), ("*", 200), ("ai:mini_chat:write", 403), ("", 403)]
)
async def test_it_takes_the_permission_to_read_quotas(api: RunningApi, scope: str, status: int) -> None:
    async with api.client(Caller(scope=scope)) as client:
        answer = await client.get("/quota/status")
        assert answer.status_code == status
        if status == 403:
            assert_problem(answer, 403, "insufficient_permissions")


async def test_it_takes_a_token(api: RunningApi) -> None:
    async with api.client() as client:
        assert_problem(await client.get("/quota/status"), 401, "unauthenticated")


async def test_it_is_described(api: RunningApi) -> None:
    async with api.client(base_path="") as client:
        document = (await client.get("/openapi.json")).json()
    operation = document["paths"]["/mini-chat/v1/quota/status"]["get"]
    assert operation["responses"]["200"]["content"]["application/json"]["schema"]["$ref"].endswith("QuotaStatusAnswer")
    period = document["components"]["schemas"]["QuotaPeriod"]
    assert sorted(period["required"]) == sorted(untouched("daily", 1))

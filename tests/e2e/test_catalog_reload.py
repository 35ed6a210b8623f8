"""The catalog file is edited while the product runs."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import yaml

from tests.support.catalogs import PREMIUM, STANDARD
from tests.support.commands import mini_chat
from tests.support.deployment import Deployment, Process, deployment
from tests.support.tokens import Caller
from tests.support.turns import ToldTurn, ask, create_chat, scripted
from tests.support.waiting import wait_until

RELOAD_SECS = 3.0
"""A hangup takes a tenth of a second; the rest is for a machine that is busy with other tests."""
ANSWER = scripted(tokens=1, rate=0)


@pytest.fixture
def reloading(database_url: str, spare_valkey_url: str) -> Iterator[Deployment]:
    with deployment(
        database_url=database_url, valkey_url=spare_valkey_url, apis=1, workers=1, CATALOG__RELOAD_SECS="0.2"
    ) as running:
        yield running


def read_catalog(product: Deployment) -> dict[str, Any]:
    tree: dict[str, Any] = yaml.safe_load(Path(product.variables["CATALOG__PATH"]).read_text())
    return tree


def edit(product: Deployment, **changes: Any) -> None:
    path = Path(product.variables["CATALOG__PATH"])
    tree = read_catalog(product) | changes
    replacement = path.with_suffix(".new")
    replacement.write_text(yaml.safe_dump(tree))
    replacement.replace(path)


def decision_of(turn: ToldTurn) -> dict[str, Any]:
    names = ("effective_model", "quota_decision", "downgrade_from", "downgrade_reason")
    return {name: turn.terminal.data[name] for name in names if name in turn.terminal.data}


def has_reloaded(process: Process, policy_version: int) -> bool:
    return f'"policy_version":{policy_version}' in process.log


ALLOWED = {"effective_model": PREMIUM, "quota_decision": "allow"}
DOWNGRADED = {
    "effective_model": STANDARD,
    "quota_decision": "downgrade",
    "downgrade_from": PREMIUM,
    "downgrade_reason": "disable_premium_tier",
}


async def test_a_kill_switch_takes_effect_at_the_next_send(reloading: Deployment) -> None:
    async with reloading.client(Caller()) as client:
        chat_id = await create_chat(client, model=PREMIUM)

        async def has_switched(expected: dict[str, Any]) -> bool:
            return decision_of(await ask(client, ANSWER, chat_id=chat_id)) == expected

        assert await has_switched(ALLOWED)
        edit(reloading, policy_version=2, kill_switches={"disable_premium_tier": True})
        await wait_until(lambda: has_switched(DOWNGRADED))

        edit(reloading, policy_version=2, kill_switches={})  # the version must grow: nothing changes
        await wait_until(lambda: "2 is stored with another content" in reloading.apis[0].log)
        assert await has_switched(DOWNGRADED)
        outcome = await mini_chat(
            "doctor", "--url", reloading.apis[0].url, "--silence", 1, variables=reloading.variables
        )
        assert "api                     is degraded: catalog degraded" in outcome.out
        assert "correct the catalog file; the API's log says why" in outcome.out

        edit(reloading, policy_version=3, kill_switches={})
        await wait_until(lambda: has_switched(ALLOWED))
    await wait_until(partial(has_reloaded, reloading.workers[0], 3))


async def test_a_hangup_reloads_api_and_worker_at_once(database_url: str, spare_valkey_url: str) -> None:
    with deployment(
        database_url=database_url, valkey_url=spare_valkey_url, apis=1, workers=1, CATALOG__RELOAD_SECS="0"
    ) as product:
        edit(product, policy_version=2, kill_switches={"disable_premium_tier": True})
        for process in (product.apis[0], product.workers[0]):
            process.popen.send_signal(signal.SIGHUP)
            await wait_until(partial(has_reloaded, process, 2), timeout=RELOAD_SECS)
        async with product.client(Caller()) as client:
            turn = await ask(client, ANSWER, chat_id=await create_chat(client, model=PREMIUM))
        assert decision_of(turn) == DOWNGRADED


async def test_a_key_that_has_gone_ends_a_turn_at_once_and_free(reloading: Deployment) -> None:
    """The provider was never asked: nobody waits for other attempts, which find no key either, and nobody pays."""
    caller = Caller()
    key = reloading.folder / "key"
    key.write_text("sk-of-the-tenant")
    providers = read_catalog(reloading)["providers"]
    override = {"host": "localhost", "auth_header": "api-key", "auth_secret": f"file:{key}"}
    providers["openai"]["tenant_overrides"] = {str(caller.tenant_id): override}
    edit(reloading, policy_version=2, providers=providers)
    await wait_until(lambda: has_reloaded(reloading.apis[0], 2) and has_reloaded(reloading.workers[0], 2))
    key.unlink()
    async with reloading.client(caller) as client:
        turn = await ask(client, ANSWER, chat_id=await create_chat(client, model=STANDARD))
    assert turn.terminal.data["code"] == "validation_error"
    connection = await asyncpg.connect(reloading.database_url)
    try:
        [row] = await connection.fetch("SELECT payload FROM outbox_messages WHERE queue = 'usage_snapshot'")
    finally:
        await connection.close()
    event = json.loads(row["payload"])
    assert (event["settlement_method"], event["committed_credits_micro"]) == ("released", 0)

"""The API as a process: sockets, signals and the end of a start that fails."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from api.json_route import MAX_BODY_BYTES
from shared.clock import SystemClock
from shared.db.engine import open_database
from shared.model_catalog.catalog import Catalog
from shared.policy.snapshots import store_snapshot
from shared.settings import DatabaseSettings
from tests.support.catalogs import acceptance_catalog, write_catalog
from tests.support.waiting import wait_until

PROGRAM = 'from shared.cli import main; raise SystemExit(main(["api"]))'


@pytest.fixture
def environment(database_url: str, valkey_url: str, tmp_path: Path) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("MINI_CHAT_")} | {
        "MINI_CHAT_DATABASE__URL": database_url,
        "MINI_CHAT_REDIS__URL": valkey_url,
        "MINI_CHAT_CATALOG__PATH": str(write_catalog(acceptance_catalog(), tmp_path)),
        "MINI_CHAT_ALLOW_HTTP_PROVIDERS": "true",
        "MINI_CHAT_AUTH__MODE": "dev",
        "MINI_CHAT_METRICS__API_PORT": "0",
        "MINI_CHAT_PORT": str(_free_port()),
    }


@contextmanager
def started(environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


async def test_a_process_serves_until_it_is_asked_to_end(environment: dict[str, str]) -> None:
    url = f"http://127.0.0.1:{environment['MINI_CHAT_PORT']}"
    with started(environment) as process:
        async with httpx.AsyncClient(base_url=url) as client:

            async def is_up() -> bool:
                try:
                    return (await client.get("/openapi.json")).status_code == 200
                except httpx.TransportError:
                    return False

            await wait_until(is_up, timeout=60)
            assert (await client.post("/mini-chat/v1/chats", json={})).status_code == 201
            _assert_large_bodies_are_answered(url)
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=30)
    assert process.returncode == 0
    lines = [json.loads(line) for line in log.splitlines()]
    created = next(line for line in lines if line["message"] == "POST /mini-chat/v1/chats")
    assert (created["process"], created["http_status"], len(created["trace_id"])) == ("api", 201, 32)


async def test_a_process_reloads_its_catalog_on_sighup(environment: dict[str, str], tmp_path: Path) -> None:
    environment |= {"MINI_CHAT_CATALOG__RELOAD_SECS": "0"}
    url = f"http://127.0.0.1:{environment['MINI_CHAT_PORT']}"
    with started(environment) as process:
        async with httpx.AsyncClient(base_url=url) as client:

            async def are_models(count: int) -> bool:
                try:
                    answer = await client.get("/mini-chat/v1/models")
                except httpx.TransportError:
                    return False
                return len(answer.json()["items"]) == count

            await wait_until(lambda: are_models(4), timeout=60)
            tree = acceptance_catalog()
            write_catalog(tree | {"policy_version": 2, "model_catalog": tree["model_catalog"][:2]}, tmp_path)
            process.send_signal(signal.SIGHUP)
            await wait_until(lambda: are_models(2), timeout=3)


def test_a_policy_that_is_stored_otherwise_ends_the_start_with_one_message(
    environment: dict[str, str], database_url: str, tmp_path: Path
) -> None:
    async def store() -> None:
        async with open_database(DatabaseSettings.model_validate({"url": database_url})) as (_, sessions):
            await store_snapshot(sessions, Catalog.model_validate(acceptance_catalog()), now=SystemClock().now())

    asyncio.run(store())
    write_catalog(acceptance_catalog() | {"kill_switches": {"disable_images": True}}, tmp_path)
    with started(environment) as process:
        _, log = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "policy_version: 1 is stored with another content" in log.splitlines()[-1]
    assert "Traceback" not in log


@pytest.mark.parametrize("variable", ["MINI_CHAT_PORT", "MINI_CHAT_METRICS__API_PORT"])
def test_a_busy_port_ends_the_start_with_one_message(environment: dict[str, str], variable: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        with started(environment | {variable: port}) as process:
            _, log = process.communicate(timeout=60)
    assert process.returncode == 2
    message = log.splitlines()[-1]
    assert message.startswith("mini-chat: ")
    assert f"cannot listen on 127.0.0.1:{port}" in message
    assert "Traceback" not in log


def _assert_large_bodies_are_answered(url: str) -> None:
    """A client that writes its whole body before it reads gets the answer, and may go on with the connection."""
    with httpx.Client(base_url=url, headers={"Content-Type": "application/json"}) as client:
        for body in (b" " * (MAX_BODY_BYTES + 1), iter([b" " * MAX_BODY_BYTES, b" "])):
            answer = client.post("/mini-chat/v1/chats", content=body)
            assert (answer.status_code, answer.json()["code"]) == (413, "payload_too_large")
            assert client.get("/healthz").status_code == 200


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

"""The API as a process: sockets, signals and the end of a start that fails."""

from __future__ import annotations

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

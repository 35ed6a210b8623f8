"""What the relay bench measures and measures with: servers, their load, and turns for them to serve."""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import httpx
import orjson
import psutil
import redis
from sqlalchemy import insert

from shared.chats.tables import Chat
from shared.clock import SystemClock
from shared.db.engine import open_database
from shared.db.migrate import migrate
from shared.embedded.ports import LOOPBACK, PortPicker
from shared.ids import new_uuid4, new_uuid7
from shared.settings import DatabaseSettings, Settings
from shared.turns.tables import Turn
from tests.bench.baselines import KINDS, URL_VARIABLE, Kind
from tests.support.api import BASE
from tests.support.deployment import deployment
from tests.support.engines import TestEngines
from tests.support.tokens import Caller
from tests.support.waiting import wait_until

PRODUCT = "mini-chat"
ROWS_BY_INSERT = 500

TurnIds = list[list[str]]
"""Chat id and request id of each."""


@dataclass(frozen=True)
class Target:
    """A server process, and how its streams are asked for."""

    name: str
    port: int
    pid: int
    path: str
    headers: str = ""

    def requests(self, turns: TurnIds) -> list[str]:
        return [
            f"GET {self.path.format(chat_id, request_id)} HTTP/1.1\r\nHost: bench\r\n{self.headers}\r\n"
            for chat_id, request_id in turns
        ]

    @property
    def cpu_secs(self) -> float:
        times = psutil.Process(self.pid).cpu_times()
        return float(times.user + times.system)

    @property
    def rss_kb(self) -> float:
        return float(psutil.Process(self.pid).memory_info().rss) / 1024


class Helper:
    """A process that does what it is told: one line of JSON there, one back."""

    def __init__(self, module: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", module], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )

    async def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Have it done, in a thread of ours that waits.

        Raises:
            RuntimeError: the process has died of it; its standard error says why.
        """
        return await asyncio.to_thread(self._ask, orjson.dumps({"do": do, **arguments}) + b"\n")

    def _ask(self, line: bytes) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line)
        answer = b""
        while not answer.endswith(b"\n"):
            piece = self._process.stdout.read(65_536)
            if not piece:
                raise RuntimeError(f"{self._process.args!r} has died")
            answer += piece
        result: dict[str, Any] = orjson.loads(answer)
        return result

    def stop(self) -> None:
        self._process.kill()
        self._process.communicate()


@dataclass(frozen=True)
class Rig:
    """Everything that runs for the length of the bench."""

    targets: tuple[Target, ...]
    clients: Helper
    producer: Helper
    valkey: redis.Redis
    turns: TurnIds

    @property
    def product(self) -> Target:
        return self.targets[0]

    @property
    def valkey_cpu_secs(self) -> float:
        info: Any = self.valkey.info("cpu")
        return float(info["used_cpu_user"] + info["used_cpu_sys"])

    def commands_of_readers(self) -> int:
        """How many commands the servers have sent; what the append script calls is not theirs."""
        calls: Any = self.valkey.info("commandstats")
        own = ("cmdstat_xread", "cmdstat_xrange", "cmdstat_subscribe", "cmdstat_unsubscribe", "cmdstat_ping")
        return sum(calls.get(name, {}).get("calls", 0) for name in own)

    def connections_of(self, target: Target) -> int:
        port = self.valkey.connection_pool.connection_kwargs["port"]
        connections = psutil.Process(target.pid).net_connections("tcp")
        return sum(connection.raddr == (LOOPBACK, port) for connection in connections)


@asynccontextmanager
async def rig(*, turns: int) -> AsyncIterator[Rig]:
    """Start the product, the baselines and their load, with so many running turns."""
    _raise_file_limit()
    async with AsyncExitStack() as stack:
        engines = stack.enter_context(TestEngines())
        database = DatabaseSettings.model_validate({"url": engines.database_url})
        await asyncio.to_thread(migrate, Settings(database=database))
        caller = Caller()
        ids = await _insert_turns(database, caller, count=turns)
        product = stack.enter_context(
            deployment(database_url=engines.database_url, valkey_url=engines.redis_url, apis=1, workers=0)
        )
        api = product.apis[0]
        token = f"Authorization: {caller.headers['Authorization']}\r\n"
        path = BASE + "/chats/{}/turns/{}/events"
        ports = PortPicker()
        targets = [
            Target(PRODUCT, api.port, api.popen.pid, path, token),
            *[stack.enter_context(_baseline(kind, ports.pick(), engines.redis_url)) for kind in KINDS],
        ]
        for target in targets:
            await _until_up(target)
        clients, producer = Helper("tests.bench.relay_client"), Helper("tests.bench.relay_producer")
        stack.callback(clients.stop)
        stack.callback(producer.stop)
        await producer.ask("connect", url=engines.redis_url)
        valkey = redis.Redis.from_url(engines.redis_url)
        stack.callback(valkey.close)
        yield Rig(tuple(targets), clients, producer, valkey, ids)


@contextmanager
def _baseline(kind: Kind, port: int, redis_url: str) -> Iterator[Target]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.baselines", kind, "--port", str(port)],
        env=os.environ | {URL_VARIABLE: redis_url},
    )
    try:
        yield Target(kind, port, process.pid, "/streams/{}/{}")
    finally:
        process.kill()
        process.wait()


async def _until_up(target: Target) -> None:
    async with httpx.AsyncClient(base_url=f"http://{LOOPBACK}:{target.port}", trust_env=False) as client:

        async def answers() -> bool:
            try:
                return (await client.get("/healthz")).is_success
            except httpx.TransportError:
                return False

        await wait_until(answers, timeout=30)


async def _insert_turns(database: DatabaseSettings, owner: Caller, *, count: int) -> TurnIds:
    now: datetime = SystemClock().now()
    chats = [
        {
            "id": new_uuid7(),
            "tenant_id": owner.tenant_id,
            "user_id": owner.user_id,
            "model": "gpt-5.2",
            "created_at": now,
            "updated_at": now,
        }
        for _ in range(count)
    ]
    turns = [
        {
            "id": new_uuid4(),
            "tenant_id": owner.tenant_id,
            "chat_id": chat["id"],
            "request_id": new_uuid4(),
            "requester_type": "user",
            "requester_user_id": owner.user_id,
            "state": "running",
            "planned_message_id": new_uuid4(),
            "effective_model": "gpt-5.2",
            "quota_decision": "allow",
            "on_disconnect": "continue",
            "on_worker_loss": "restart",
            "started_at": now,
            "last_progress_at": now,
            "updated_at": now,
        }
        for chat in chats
    ]
    async with open_database(database) as (_, sessions), sessions.begin() as session:
        for begin in range(0, count, ROWS_BY_INSERT):
            await session.execute(insert(Chat), chats[begin : begin + ROWS_BY_INSERT])
            await session.execute(insert(Turn), turns[begin : begin + ROWS_BY_INSERT])
    return [[str(turn["chat_id"]), str(turn["request_id"])] for turn in turns]


def _raise_file_limit() -> None:
    """A client is a socket in two processes."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

"""The one connection for all commands, on a real Valkey and across its failures."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import pytest
import redis
import uvloop
from redis.exceptions import AuthenticationError, ResponseError

from shared.settings import RedisSettings
from shared.valkey import client as module
from shared.valkey.client import REDIS_FAILURE, Valkey, open_valkey
from shared.valkey.scripts import Script, run_scripts
from tests.support.waiting import wait_until

CLIENT_NAME = "under-test"


def settings(url: str) -> RedisSettings:
    return RedisSettings.model_validate({"url": url})


def named(url: str) -> RedisSettings:
    """Of clients that `connections` finds."""
    return settings(f"{url}?client_name={CLIENT_NAME}")


@pytest.fixture
async def valkey(valkey_url: str) -> AsyncIterator[Valkey]:
    async with open_valkey(named(valkey_url)) as client:
        await client.flushdb()
        yield client


@pytest.fixture
def admin(valkey_url: str) -> redis.Redis:
    return redis.Redis.from_url(valkey_url)


def connections(admin: redis.Redis) -> list[str]:
    """Ids of the clients under test: processes of other tests may use the same server, and connect when they like."""
    clients = cast("list[dict[str, str]]", admin.client_list())
    return [client["id"] for client in clients if client["name"] == CLIENT_NAME]


async def test_hundreds_of_callers_share_one_connection_and_get_their_own_replies(
    valkey: Valkey, admin: redis.Redis
) -> None:
    async def caller(number: int) -> None:
        for turn in range(20):
            await valkey.set(f"key:{number}", turn)
            assert await valkey.get(f"key:{number}") == str(turn).encode()

    before = connections(admin)
    async with asyncio.TaskGroup() as tasks:
        for number in range(200):
            tasks.create_task(caller(number))
    assert len(before) == 1
    assert connections(admin) == before


async def test_commands_run_in_the_order_in_which_they_are_given(valkey: Valkey) -> None:
    await asyncio.gather(*(valkey.rpush("list", number) for number in range(500)))  # type: ignore[arg-type]
    stored = await valkey.lrange("list", 0, -1)  # type: ignore[misc]
    assert [int(number) for number in stored] == list(range(500))


async def test_a_busy_caller_does_not_starve_the_others(valkey: Valkey) -> None:
    """Whoever gives a command has its reply before a busy one has had many more."""
    done = 0
    is_over = False

    async def busy() -> None:
        nonlocal done
        while not is_over:
            await valkey.set("busy", b"x" * 4_096)
            done += 1

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(busy())
        await wait_until(lambda: done > 10)
        for _ in range(50):
            before = done
            await valkey.get("other")
            assert done - before <= 2
        is_over = True


async def test_a_killed_connection_fails_its_commands_and_is_made_again(valkey: Valkey, admin: redis.Redis) -> None:
    await valkey.ping()
    admin.client_pause(2_000, all=False)
    waiting = asyncio.ensure_future(valkey.set("key", "value"))
    await asyncio.sleep(0.05)
    for client in connections(admin):
        admin.client_kill_filter(_id=client)
    with pytest.raises(REDIS_FAILURE):
        await waiting
    admin.client_unpause()
    assert await valkey.ping()


async def test_a_connection_killed_in_silence_costs_no_failure(valkey: Valkey, admin: redis.Redis) -> None:
    await valkey.ping()
    for client in connections(admin):
        admin.client_kill_filter(_id=client)
    await wait_until(lambda: valkey.commands.is_connected is False)
    assert await valkey.ping()


async def test_a_server_that_does_not_answer_ends_in_a_timeout_and_a_new_connection(
    valkey_url: str, admin: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "COMMAND_TIMEOUT_SECS", 0.2)
    async with open_valkey(named(valkey_url)) as valkey:
        await valkey.ping()
        before = connections(admin)
        admin.client_pause(1_000, all=False)
        with pytest.raises(redis.TimeoutError):
            await valkey.set("key", "value")
        admin.client_unpause()
        assert await valkey.ping()
        assert connections(admin) != before


async def test_a_caller_who_stops_waiting_disturbs_nobody(valkey: Valkey, admin: redis.Redis) -> None:
    await valkey.set("key", "value")
    admin.client_pause(2_000, all=False)
    gone = asyncio.ensure_future(valkey.incr("number"))
    stays = asyncio.ensure_future(valkey.set("key", "new"))
    await asyncio.sleep(0.05)
    gone.cancel()
    admin.client_unpause()
    assert await stays is True
    assert await valkey.get("key") == b"new"


async def test_a_server_out_of_reach_fails_all_who_wait_for_it_at_once(unused_tcp_port: int) -> None:
    async with open_valkey(settings(f"redis://127.0.0.1:{unused_tcp_port}")) as valkey:
        failures = await asyncio.gather(*(valkey.ping() for _ in range(50)), return_exceptions=True)
    assert all(isinstance(failure, REDIS_FAILURE) for failure in failures)


async def test_scripts_that_the_server_has_forgotten_are_sent_again(valkey: Valkey) -> None:
    script = Script("leave")
    await valkey.script_flush()
    assert await script(valkey, ["clients"], ["p", 0]) == 0
    await valkey.script_flush()
    assert await run_scripts(valkey, [script.call(["clients"], ["p", 0])] * 2) == [0, 0]


async def test_a_pipeline_gives_each_reply_or_the_first_error(valkey: Valkey) -> None:
    await valkey.set("text", "x")
    async with valkey.pipeline(transaction=False) as pipeline:
        pipeline.get("text")
        pipeline.incr("text")
        pipeline.zadd("set", {"a": 1.5})
        answers = await pipeline.execute(raise_on_error=False)
    assert (answers[0], answers[2]) == (b"x", 1)
    assert isinstance(answers[1], ResponseError)
    async with valkey.pipeline(transaction=False) as pipeline:
        pipeline.incr("text")
        with pytest.raises(ResponseError):
            await pipeline.execute()
    with pytest.raises(NotImplementedError):
        valkey.pipeline()


def test_it_works_on_the_loop_of_production(valkey_url: str) -> None:
    async def scenario() -> None:
        async with open_valkey(settings(valkey_url)) as valkey:
            await asyncio.gather(*(valkey.set(f"k{i}", i) for i in range(100)))
            assert await valkey.mget("k0", "k99") == [b"0", b"99"]

    uvloop.run(scenario())


async def test_a_user_a_password_and_a_database_are_those_of_the_url(valkey_url: str, admin: redis.Redis) -> None:
    where = urlsplit(valkey_url).netloc.rpartition("@")[2]
    admin.acl_setuser("ann", enabled=True, passwords=["+s3cret"], keys=["*"], commands=["+@all"])
    try:
        async with open_valkey(settings(f"redis://ann:s3cret@{where}/3")) as valkey:
            assert await valkey.execute_command("ACL WHOAMI") == "ann"
            assert (await valkey.client_info())["db"] == 3
        async with open_valkey(settings(f"redis://ann:wrong@{where}/3")) as valkey:
            with pytest.raises(AuthenticationError):
                await valkey.ping()
    finally:
        admin.acl_deluser("ann")


async def test_a_connection_can_be_encrypted(valkey_url: str, tmp_path: Path) -> None:
    """Through a server that takes TLS off, as a managed Valkey does."""
    certificate, key = self_signed(tmp_path)
    async with tls_in_front_of(valkey_url, certificate, key) as port:
        parts = urlsplit(valkey_url)
        login = parts.netloc.rpartition("@")[0]
        where = f"{login}@localhost:{port}" if login else f"localhost:{port}"
        trusted = f"rediss://{where}{parts.path}?ssl_ca_certs={certificate}"
        async with open_valkey(settings(trusted)) as valkey:
            await asyncio.gather(*(valkey.set(f"k{i}", b"x" * 50_000) for i in range(20)))
            assert await valkey.get("k19") == b"x" * 50_000
        async with open_valkey(settings(f"rediss://{where}{parts.path}")) as valkey:
            with pytest.raises(REDIS_FAILURE):
                await valkey.ping()


def self_signed(folder: Path) -> tuple[Path, Path]:
    certificate, key = folder / "cert.pem", folder / "key.pem"
    options = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=localhost"
    extra = ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(["openssl", *options.split(), *extra], check=True, capture_output=True)  # noqa: S607
    return certificate, key


@asynccontextmanager
async def tls_in_front_of(valkey_url: str, certificate: Path, key: Path) -> AsyncIterator[int]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    parts = urlsplit(valkey_url)
    open_writers: list[asyncio.StreamWriter] = []

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass  # the client has gone without a goodbye
        finally:
            writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection(parts.hostname, parts.port)
        open_writers.append(server_writer)  # when its end comes, the other is closed
        await asyncio.gather(copy(reader, server_writer), copy(server_reader, writer))

    server = await asyncio.start_server(serve, "localhost", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in open_writers:
            writer.transport.abort()
        await asyncio.sleep(0.05)

"""The embedded engines: data outlives servers, servers do not outlive us, and nobody else gets in."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import asyncpg
import psutil
import pytest
from redis.asyncio import Redis

from shared.embedded import programs
from shared.embedded.data_dir import DataDir
from shared.embedded.errors import EngineError
from shared.embedded.leftovers import is_alive
from shared.embedded.postgres import EmbeddedPostgres
from shared.embedded.server import EmbeddedServer
from shared.embedded.tether import can_tether
from shared.embedded.valkey import EmbeddedValkey
from shared.settings import ConfigurationError
from tests.support.engines import TestEngines
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[3]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="concerns servers of root")


async def execute(url: str, statement: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


async def write_and_read(url: str, *, key: str = "k", value: str | None = None) -> str | None:
    async with Redis.from_url(url, decode_responses=True) as client:
        if value is not None:
            await client.set(key, value)
        answer = await client.get(key)
        assert answer is None or isinstance(answer, str)
        return answer


async def test_both_engines_answer_and_leave_no_process() -> None:
    with TestEngines() as engines:
        processes = [psutil.Process(engine.pid) for engine in (engines.postgres, engines.valkey)]
        assert await execute(engines.database_url, "SELECT current_database() || current_user") == "mini_chatmini_chat"
        assert await write_and_read(engines.redis_url, value="v") == "v"
    assert not any(is_alive(process) for process in processes)
    assert engines.postgres.pid is None
    assert engines.valkey.pid is None


@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_postgres_keeps_data_password_and_port(data_dir: Path, how: str) -> None:
    first = EmbeddedPostgres(data_dir, durable=False)
    first.start()
    await execute(first.url, "CREATE TABLE t AS SELECT 'GRÜSSE'::text AS word")
    getattr(first, how)()
    assert not first.is_running

    with EmbeddedPostgres(data_dir, durable=False) as second:
        assert second.url == first.url
        assert await execute(second.url, "SELECT lower(word) FROM t") == "grüsse"


@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_valkey_keeps_data_password_and_port(data_dir: Path, how: str) -> None:
    first = EmbeddedValkey(data_dir)
    first.start()
    await write_and_read(first.url, value="v")
    getattr(first, how)()

    with EmbeddedValkey(data_dir) as second:
        assert second.url == first.url
        assert await write_and_read(second.url) == "v"


async def test_durable_postgres_does_not_trade_safety(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir) as postgres:
        settings = [
            await execute(postgres.url, f"SELECT current_setting('{name}')")
            for name in ("fsync", "full_page_writes", "synchronous_commit", "max_connections")
        ]
    assert settings == ["on", "on", "on", "300"]


async def test_valkey_never_evicts_and_can_forget(data_dir: Path) -> None:
    with EmbeddedValkey(data_dir) as valkey:
        url = valkey.url
        await write_and_read(url, value="v")
        async with Redis.from_url(url, decode_responses=True) as client:
            assert await client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
            assert await client.config_get("appendonly") == {"appendonly": "yes"}
        valkey.restart()
        assert await write_and_read(url) == "v"
        valkey.restart(wipe=True)
        assert valkey.url == url
        assert await write_and_read(url) is None


async def test_valkey_without_persistence_forgets(data_dir: Path) -> None:
    with EmbeddedValkey(data_dir, persistence=False) as valkey:
        await write_and_read(valkey.url, value="v")
        valkey.restart()
        assert await write_and_read(valkey.url) is None


async def test_a_server_that_was_killed_starts_again_in_place(data_dir: Path) -> None:
    postgres, valkey = EmbeddedPostgres(data_dir, durable=False), EmbeddedValkey(data_dir)
    for engine in (postgres, valkey):
        engine.start()
        url = engine.url
        assert engine.pid is not None
        process = psutil.Process(engine.pid)
        process.kill()
        await wait_until(lambda engine=engine: not engine.is_running)  # type: ignore[misc]
        engine.start()
        assert engine.url == url
    assert await execute(postgres.url, "SELECT 1") == 1
    assert await write_and_read(valkey.url, value="v") == "v"
    postgres.stop()
    valkey.stop()


async def test_sessions_that_outlive_a_killed_server_do_not_stop_the_next(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir, durable=False) as postgres:
        connection = await asyncpg.connect(postgres.url)
        session = psutil.Process(connection.get_server_pid())
        session.suspend()  # so that it cannot notice that its server is gone
        postgres.kill()
        postgres.start()
        assert not is_alive(session)
        connection.terminate()
        assert await execute(postgres.url, "SELECT 1") == 1


async def test_a_stale_pid_file_that_names_a_living_process_is_no_obstacle(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir, durable=False) as postgres:
        pid_file = postgres.directory / "postmaster.pid"
        lines = pid_file.read_text().splitlines()
        postgres.kill()
        with EmbeddedValkey(data_dir) as other:  # runs as the same user
            pid_file.write_text("\n".join([str(other.pid), *lines[1:], ""]))
            postgres.start()
            assert other.is_running
        assert await execute(postgres.url, "SELECT 1") == 1


async def test_the_next_start_stops_servers_of_a_killed_owner(data_dir: Path) -> None:
    postgres_pid, valkey_pid = kill_owner_of_engines(data_dir, "loose")
    orphans = [psutil.Process(postgres_pid), psutil.Process(valkey_pid)]
    assert all(is_alive(process) for process in orphans)

    with EmbeddedPostgres(data_dir, durable=False) as postgres, EmbeddedValkey(data_dir) as valkey:
        assert not any(is_alive(process) for process in orphans)
        assert await execute(postgres.url, "SELECT 1") == 1
        assert await write_and_read(valkey.url, value="v") == "v"


@pytest.mark.skipif(not can_tether(), reason="needs parent death signals")
async def test_servers_end_with_a_killed_owner(data_dir: Path) -> None:
    pids = kill_owner_of_engines(data_dir, "tethered")
    await wait_until(lambda: not any(is_running(pid) for pid in pids), message="the servers live on")


async def test_another_server_of_the_same_program_is_left_alone(data_dir: Path) -> None:
    with EmbeddedValkey(data_dir / "a") as mine, EmbeddedValkey(data_dir / "b") as other:
        mine.restart()
        assert await write_and_read(other.url, value="v") == "v"


@pytest.mark.parametrize("engine", [EmbeddedPostgres, EmbeddedValkey])
def test_a_second_owner_is_refused(data_dir: Path, engine: type[EmbeddedServer]) -> None:
    with engine(data_dir) as first:
        with pytest.raises(ConfigurationError, match=rf"is in use: \w+ runs there already \(process {os.getpid()}\)"):
            engine(data_dir).start()
        assert first.is_running


@pytest.mark.parametrize("engine", [EmbeddedPostgres, EmbeddedValkey])
def test_a_port_that_is_taken_is_not_insisted_on(data_dir: Path, engine: type[EmbeddedServer]) -> None:
    with engine(data_dir) as first:
        port = first.port
    with socket.create_server(("127.0.0.1", port)), engine(data_dir) as second:
        assert second.port != port


@pytest.mark.parametrize("engine", [EmbeddedPostgres, EmbeddedValkey])
def test_a_fixed_port_that_is_taken_is_an_error(data_dir: Path, engine: type[EmbeddedServer]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        server = engine(data_dir, port=other.getsockname()[1])
        with pytest.raises(EngineError, match="Address already in use"):
            server.start()
    assert not server.is_running


def test_a_failed_start_tells_what_the_server_said(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir, durable=False) as postgres:
        version = postgres.directory / "PG_VERSION"
        postgres.stop()
        version.write_text("11\n")
        with pytest.raises(EngineError, match="initialized by PostgreSQL version 11"):
            postgres.start()


async def test_no_secret_can_be_read_by_others(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir, durable=False) as postgres, EmbeddedValkey(data_dir) as valkey:
        assert list_open_files(data_dir) == []
        for engine in (postgres, valkey):
            assert engine.pid is not None
            process = psutil.Process(engine.pid)
            assert engine.password not in " ".join(process.cmdline())
            assert set(process.environ()) <= {"PATH", "LC_ALL", "TZ", "PGDATA", "PG_GRANDPARENT_PID"}
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(postgres.url.replace(postgres.password, "wrong"))
        with socket.create_connection(("127.0.0.1", valkey.port)) as connection:
            connection.sendall(b"PING\r\n")
            assert connection.recv(100).startswith(b"-NOAUTH")


async def test_servers_listen_on_loopback_tcp_only(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir, durable=False) as postgres, EmbeddedValkey(data_dir) as valkey:
        for engine in (postgres, valkey):
            assert engine.pid is not None
            listening = [
                connection.laddr
                for connection in psutil.Process(engine.pid).net_connections(kind="all")
                if connection.status == psutil.CONN_LISTEN or connection.family == socket.AF_UNIX
            ]
            assert listening == [("127.0.0.1", engine.port)]


def test_a_password_that_others_could_read_is_refused(data_dir: Path) -> None:
    with EmbeddedValkey(data_dir) as valkey:
        pass
    (data_dir / "valkey.password").chmod(0o644)
    with pytest.raises(ConfigurationError, match=r"valkey\.password"):
        valkey.start()


@as_root
def test_servers_of_root_run_as_nobody(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir, durable=False) as postgres, EmbeddedValkey(data_dir) as valkey:
        for engine in (postgres, valkey):
            assert engine.pid is not None
            process = psutil.Process(engine.pid)
            assert process.username() == "nobody"
            assert 0 not in {*process.uids(), *process.gids()}
            status = Path(f"/proc/{engine.pid}/status")
            if status.exists():
                assert "Groups:\t \n" in status.read_text()


@as_root
def test_a_folder_that_keeps_nobody_out_is_named_and_not_opened(data_dir: Path) -> None:
    closed = data_dir.parent / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(ConfigurationError, match=f"data_dir: {closed} cannot be entered by user nobody"):
        EmbeddedValkey(closed / "data").start()
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700


@as_root
def test_a_server_folder_of_somebody_else_is_refused(data_dir: Path) -> None:
    data_dir.mkdir(mode=0o711)
    (data_dir / "valkey").mkdir()
    with pytest.raises(ConfigurationError, match="belongs to user id 0"):
        EmbeddedValkey(data_dir).start()


async def test_programs_that_nobody_cannot_reach_are_copied(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "can_run", lambda *_: False)
    with EmbeddedPostgres(data_dir, durable=False) as postgres, EmbeddedValkey(data_dir) as valkey:
        for engine in (postgres, valkey):
            assert engine.pid is not None
            assert str(data_dir / "programs") in psutil.Process(engine.pid).exe()
        assert await execute(postgres.url, "SELECT 1") == 1


def test_a_folder_with_other_content_is_left_alone(data_dir: Path) -> None:
    folder = DataDir(data_dir)
    folder.prepare()
    letter = folder.make_engine_dir("postgres") / "letter.txt"
    letter.touch()
    with pytest.raises(ConfigurationError, match="is not a PostgreSQL database"):
        EmbeddedPostgres(data_dir).start()
    assert letter.exists()


def test_a_half_finished_first_start_is_begun_again(data_dir: Path) -> None:
    folder = DataDir(data_dir)
    folder.prepare()
    (folder.make_engine_dir("postgres.new") / "base").mkdir()
    with EmbeddedPostgres(data_dir, durable=False) as postgres:
        assert postgres.is_running
    assert not (data_dir / "postgres.new").exists()


def kill_owner_of_engines(data_dir: Path, tethered: str) -> tuple[int, int]:
    """Let another process start both engines and kill it; the engines' process ids."""
    command = [sys.executable, "-m", "tests.integration.embedded.start_engines", str(data_dir), tethered]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        postgres, valkey = owner.stdout.readline().split()
        owner.kill()
    return int(postgres), int(valkey)


def list_open_files(folder: Path) -> list[Path]:
    """What anybody but its owner has any access to."""
    return [path for path in folder.rglob("*") if path.lstat().st_mode & 0o077]


def is_running(pid: int) -> bool:
    try:
        return is_alive(psutil.Process(pid))
    except psutil.NoSuchProcess:
        return False

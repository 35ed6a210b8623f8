"""`mini-chat run`: what it starts, says, restarts and leaves behind, with dummies in place of our own commands."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from signal import Signals
from typing import Any

import psutil
import pytest

from shared.embedded.leftovers import is_alive
from shared.embedded.ports import find_free_port
from shared.embedded.tether import can_tether
from shared.run.child import Backoff
from shared.run.environment import Configured
from shared.run.output import LineSplitter, Output
from shared.run.supervisor import Supervisor, hide_password
from shared.settings import ConfigurationError, Settings
from tests.integration.embedded.run_dummies import dummy_command
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[3]
URLS: dict[str, Any] = {
    "database": {"url": "postgresql://someone:secret@db.example/chat"},
    "redis": {"url": "redis://:secret@redis.example:6379/0"},
}


class Run:
    """A supervisor that runs in the background of a test."""

    def __init__(self, data_dir: Path, folder: Path, *, configured: dict[str, str] | None = None, **settings: Any):
        self.data_dir = data_dir
        self.folder = folder
        self.exit_code: int | None = None
        self._file = (folder / "output").open("wb")
        self._settings = Settings(data_dir=data_dir, **{**URLS, "port": find_free_port(), **settings})
        self._configured = Configured(configured or {})

    @contextlib.asynccontextmanager
    async def running(self, *, apis: int = 1, workers: int = 1, until_ready: bool = True) -> AsyncIterator[Supervisor]:
        environment = {"PATH": os.environ["PATH"], "DUMMY_DIR": str(self.folder)}
        with self._file:
            supervisor = Supervisor(
                self._settings,
                configured=self._configured,
                apis=apis,
                workers=workers,
                command_line=dummy_command,
                environment=environment,
                output=Output(self._file.fileno()),
            )
            async with asyncio.TaskGroup() as group:
                running = group.create_task(supervisor.run())
                try:
                    if until_ready:
                        await self.until_ready()
                        others = 1 if "OPENAI_API_KEY" in os.environ else 2
                        await wait_until(lambda: self.output.count('"arguments"') >= apis + workers + others)
                    yield supervisor
                    if not running.done():
                        supervisor.request_stop()
                    self.exit_code = await running
                finally:
                    running.cancel()

    async def until_ready(self) -> None:
        await wait_until((self.data_dir / "run.json").exists, timeout=30, message="never ready")

    @property
    def output(self) -> str:
        return (self.folder / "output").read_bytes().decode(errors="replace")

    @property
    def state(self) -> dict[str, Any]:
        state = json.loads((self.data_dir / "run.json").read_text())
        assert isinstance(state, dict)
        return state

    def environment_of(self, command: str) -> dict[str, str]:
        variables = json.loads((self.folder / f"{command}.environment").read_text())
        assert isinstance(variables, dict)
        return variables

    def position(self, text: str) -> int:
        assert text in self.output, self.output
        return self.output.index(text)


@pytest.fixture
def run(data_dir: Path, tmp_path: Path) -> Iterator[Run]:
    before = set(psutil.Process().children(recursive=True))
    yield Run(data_dir, tmp_path)
    assert not [child for child in psutil.Process().children(recursive=True) if child not in before]


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


async def test_run_file_says_where_everything_is_and_goes_at_the_end(run: Run) -> None:
    async with run.running(apis=2, workers=3):
        state = run.state
        assert set(state) == {"api", "metrics", "demo_provider", "database_url", "redis_url", "pids"}
        assert state["database_url"] == URLS["database"]["url"]
        assert state["redis_url"] == URLS["redis"]["url"]
        assert len(state["api"]) == 2
        assert len(set(state["metrics"])) == 5
        pids = state["pids"]
        assert {len(pids["api"]), len(pids["worker"])} == {2, 3}
        assert pids["postgres"] is None
        assert pids["valkey"] is None
        for pid in [*pids["api"], *pids["worker"], pids["demo_provider"]]:
            assert "dummy_command.py" in " ".join(psutil.Process(pid).cmdline())
            assert os.getsid(pid) == pid
        assert stat.S_IMODE((run.data_dir / "run.json").stat().st_mode) == 0o600
    assert run.exit_code == 0
    assert not (run.data_dir / "run.json").exists()


async def test_children_get_urls_ports_and_defaults(run: Run) -> None:
    async with run.running():
        state = run.state
        api, worker = run.environment_of("api"), run.environment_of("worker")
        port = state["api"][0].rpartition(":")[2]
        assert {
            "MINI_CHAT_DATABASE__URL": URLS["database"]["url"],
            "MINI_CHAT_REDIS__URL": URLS["redis"]["url"],
            "MINI_CHAT_AUTH__MODE": "jwt",
            "MINI_CHAT_ALLOW_HTTP_PROVIDERS": "false",
            "MINI_CHAT_DEMO_PROVIDER__PORT": state["demo_provider"].rpartition(":")[2],
            "MINI_CHAT_WORKER__DRAIN_SECS": "30",
        }.items() <= worker.items()
        assert api["MINI_CHAT_PORT"] == port
        assert [f"http://127.0.0.1:{env}/metrics" for env in (api["MINI_CHAT_METRICS__API_PORT"],)] == [
            state["metrics"][0]
        ]
        assert state["metrics"][1] == f"http://127.0.0.1:{worker['MINI_CHAT_METRICS__WORKER_PORT']}/metrics"
        run.position(f'api-1     | {{"arguments": ["api", "--host", "127.0.0.1", "--port", "{port}"]}}\n')
        run.position('migrate   | {"arguments": ["migrate"]}\n')


async def test_output_keeps_its_bytes_under_the_name_of_its_process(run: Run) -> None:
    async with run.running(workers=2):
        pass
    written = (run.folder / "output").read_bytes()
    for name in (b"worker-1  | ", b"worker-2  | "):
        assert name + b'{"message":"gr\xc3\xbc\xc3\x9fe \xff"}\r\n' in written
        assert name + b"no line endending on SIGTERM\n" in written
    assert all(b" | " in line for line in written.splitlines() if line.startswith((b"api", b"worker", b"demo")))


async def test_banner_names_urls_without_foreign_passwords_and_the_scripted_provider(run: Run) -> None:
    async with run.running():
        run.position("mini-chat is ready")
        run.position("postgresql://someone:***@db.example/chat")
        run.position("redis://:***@redis.example:6379/0")
        run.position(run.state["api"][0] + "/mini-chat/v1")
        run.position("NO REAL MODEL ANSWERS")
    assert "secret" not in run.output


async def test_no_scripted_provider_with_a_key(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    async with run.running():
        assert run.state["demo_provider"] is None
        assert run.state["pids"]["demo_provider"] is None
    assert "demo" not in run.output
    assert "NO REAL MODEL" not in run.output


@pytest.mark.parametrize("role", ["api", "worker", "demo_provider"])
async def test_a_killed_child_is_replaced_in_the_run_file_too(run: Run, role: str) -> None:
    async with run.running():
        before = run.state
        pid = before["pids"][role]
        psutil.Process(pid if isinstance(pid, int) else pid[0]).kill()
        await wait_until(lambda: run.state["pids"][role] not in (pid, [], None))
        after = run.state
        assert {**after, "pids": None} == {**before, "pids": None}
        run.position("ended (signal SIGKILL), starting again in 0.2 s")


async def test_a_child_that_cannot_stay_up_is_retried_ever_more_slowly(run: Run) -> None:
    (run.folder / "worker.exit").write_text("1")
    async with run.running(until_ready=False):
        await run.until_ready()
        await wait_until(lambda: "in 0.8 s" in run.output)
        assert run.position("in 0.2 s") < run.position("in 0.4 s") < run.position("in 0.8 s")
        (run.folder / "worker.exit").unlink()
        await wait_until(lambda: run.state["pids"]["worker"])


async def test_a_child_that_refuses_its_configuration_ends_the_run(run: Run) -> None:
    (run.folder / "worker.exit").write_text("2")
    async with run.running(until_ready=False):
        await wait_until(lambda: "stopped" in run.output)
    assert run.exit_code == 2
    run.position("worker-1 does not start as configured")


async def test_a_failed_migration_ends_the_run_before_it_begins(run: Run) -> None:
    (run.folder / "migrate.exit").write_text("1")
    async with run.running(until_ready=False):
        await wait_until(lambda: "stopped" in run.output)
    assert run.exit_code == 1
    assert "api-1" not in run.output


async def test_children_stop_in_order(run: Run) -> None:
    async with run.running(apis=2, workers=2):
        pass
    order = ["api-{}     | ending on SIGTERM", "worker-{}  | no line endending on SIGTERM"]
    for number in (1, 2):
        for other in (1, 2):
            assert run.position(order[0].format(number)) < run.position(order[1].format(other))
        assert run.position(order[1].format(number)) < run.position("demo      | ending on SIGTERM")


async def test_ctrl_c_interrupts_the_api_and_drains_workers(run: Run) -> None:
    async with run.running():
        os.kill(os.getpid(), signal.SIGINT)
        await wait_until(lambda: "stopped" in run.output)
    run.position("api-1     | ending on SIGINT")
    run.position("worker-1  | no line endending on SIGTERM")
    run.position("stopping; once more to kill")
    assert run.exit_code == 0


async def test_a_second_signal_kills_whoever_hangs(run: Run) -> None:
    (run.folder / "api.stubborn").touch()
    (run.folder / "worker.stubborn").touch()
    async with run.running() as supervisor:
        os.kill(os.getpid(), signal.SIGTERM)
        await wait_until(lambda: "stopping" in run.output)
        supervisor.request_stop(Signals.SIGTERM)
        await wait_until(lambda: "stopped" in run.output)
    assert run.exit_code == 0


async def test_a_worker_that_does_not_drain_in_time_is_killed(data_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "worker.stubborn").touch()
    run = Run(data_dir, tmp_path, worker={"drain_secs": 0})
    async with run.running():
        [pid] = run.state["pids"]["worker"]
        process = psutil.Process(pid)
    assert not is_alive(process)


async def test_a_second_run_in_one_folder_is_refused(run: Run, tmp_path: Path) -> None:
    other_folder = tmp_path / "other"
    other_folder.mkdir()
    async with run.running():
        other = Run(run.data_dir, other_folder)
        with pytest.raises(ExceptionGroup) as refusal:
            async with other.running(until_ready=False):
                await asyncio.Event().wait()
        assert refusal.group_contains(ConfigurationError, match=r"is in use: mini-chat run there already")
        assert (run.data_dir / "run.json").exists()


async def test_a_default_port_gives_way_and_a_configured_one_is_refused(data_dir: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        run = Run(data_dir, tmp_path, port=port)
        async with run.running():
            assert run.state["api"] != [f"http://127.0.0.1:{port}"]
        run.position(f"port {port} is in use, taking ")

        run = Run(data_dir, tmp_path, port=port, configured={"MINI_CHAT_PORT": str(port)})
        with pytest.raises(ExceptionGroup) as refusal:
            async with run.running(until_ready=False):
                await asyncio.Event().wait()
        assert refusal.group_contains(ConfigurationError, match=rf"port: {port} on 127\.0\.0\.1 is in use")


async def test_metrics_can_be_off(data_dir: Path, tmp_path: Path) -> None:
    run = Run(data_dir, tmp_path, metrics={"api_port": 0, "worker_port": 0})
    async with run.running():
        assert run.state["metrics"] == []
        assert run.environment_of("worker")["MINI_CHAT_METRICS__WORKER_PORT"] == "0"


async def test_leftover_processes_of_a_killed_run_are_ended(run: Run, tmp_path: Path) -> None:
    script = tmp_path / "mini-chat"
    script.write_text("import signal\nsignal.pause()\n")
    with subprocess.Popen([sys.executable, str(script), "worker"]) as leftover:  # noqa: ASYNC220 (it returns at once)
        run.data_dir.mkdir(mode=0o711)
        pids = {"api": [os.getpid()], "worker": [leftover.pid], "demo_provider": None}
        (run.data_dir / "run.json").write_text(json.dumps({"pids": pids}))
        async with run.running(until_ready=False):
            await wait_until(lambda: leftover.poll() is not None)
            await run.until_ready()


async def test_run_with_engines_ends_cleanly_on_sigterm(data_dir: Path, tmp_path: Path) -> None:
    with start_run(data_dir, tmp_path) as owner:
        processes = await wait_for_processes(data_dir, owner)
        assert len(processes) == 6
        owner.send_signal(signal.SIGTERM)
        assert owner.wait(20) == 0
    assert not any(is_alive(process) for process in processes)
    assert not (data_dir / "run.json").exists()


async def test_a_dead_engine_comes_back_at_its_url(data_dir: Path, tmp_path: Path) -> None:
    with start_run(data_dir, tmp_path) as owner:
        await wait_for_processes(data_dir, owner)
        before = read_state(data_dir)
        for name in ("postgres", "valkey"):
            psutil.Process(before["pids"][name]).kill()
        for name in ("postgres", "valkey"):
            await wait_until(lambda name=name: read_state(data_dir)["pids"][name] not in (None, before["pids"][name]))  # type: ignore[misc]
        after = read_state(data_dir)
        assert [after["database_url"], after["redis_url"]] == [before["database_url"], before["redis_url"]]
        assert after["pids"]["api"] == before["pids"]["api"]
        owner.terminate()
        assert owner.wait(20) == 0


@pytest.mark.skipif(not can_tether(), reason="needs parent death signals")
async def test_nothing_outlives_a_killed_run_and_the_next_one_starts(data_dir: Path, tmp_path: Path) -> None:
    with start_run(data_dir, tmp_path) as owner:
        processes = await wait_for_processes(data_dir, owner)
        owner.kill()
    await wait_until(lambda: not any(is_alive(process) for process in processes))
    assert (data_dir / "run.json").exists()
    with start_run(data_dir, tmp_path) as owner:
        assert not {*processes} & {*await wait_for_processes(data_dir, owner)}
        owner.terminate()
        assert owner.wait(20) == 0


@pytest.mark.skipif(not can_tether(), reason="needs parent death signals")
async def test_everything_can_be_killed_at_once(data_dir: Path, tmp_path: Path) -> None:
    for _ in range(2):
        with start_run(data_dir, tmp_path) as owner:
            for process in [psutil.Process(owner.pid), *await wait_for_processes(data_dir, owner)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()


def test_back_off_doubles_to_a_limit_and_forgets_after_health() -> None:
    backoff = Backoff()
    delays = [backoff.next_delay(lived=1.0) for _ in range(7)]
    assert delays == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    assert backoff.next_delay(lived=10.0) == 0.2
    assert backoff.next_delay(lived=1.0) == 0.4


def test_lines_are_cut_at_line_ends_only() -> None:
    splitter = LineSplitter()
    assert splitter.feed(b"a\nb") == [b"a"]
    assert splitter.feed(b"c\r\n\nd") == [b"bc\r", b""]
    assert splitter.end() == [b"d"]
    assert splitter.end() == []


def test_a_closed_reader_does_not_matter() -> None:
    read, write = os.pipe()
    os.close(read)
    output = Output(write)
    output.say("nobody hears this")
    output.say("nor this")
    os.close(write)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://user:p%40ss@host:1/db?sslmode=require", "postgresql://user:***@host:1/db?sslmode=require"),
        ("redis://host/0", "redis://host/0"),
        ("rediss://:word@host/0", "rediss://:***@host/0"),
    ],
)
def test_passwords_are_hidden(url: str, shown: str) -> None:
    assert hide_password(url) == shown


@contextlib.contextmanager
def start_run(data_dir: Path, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A run in a process of its own, which does not outlive the block."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MINI_CHAT_")}
    environment["DUMMY_DIR"] = str(folder)
    command = [sys.executable, "-m", "tests.integration.embedded.run_dummies", str(data_dir)]
    with (
        (folder / "output").open("ab") as output,
        subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output) as owner,
    ):
        try:
            yield owner
        finally:
            owner.kill()


async def wait_for_processes(data_dir: Path, owner: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Every process of this run, once it is ready."""

    def is_ready() -> bool:
        children = {child.pid for child in psutil.Process(owner.pid).children()}
        return (data_dir / "run.json").exists() and read_state(data_dir)["pids"]["api"][0] in children

    await wait_until(is_ready, timeout=30, message="never ready")
    pids = read_state(data_dir)["pids"]
    ids = [*pids["api"], *pids["worker"], pids["demo_provider"], pids["postgres"], pids["valkey"]]
    return [psutil.Process(pid) for pid in ids]


def read_state(data_dir: Path) -> dict[str, Any]:
    state = json.loads((data_dir / "run.json").read_text())
    assert isinstance(state, dict)
    return state

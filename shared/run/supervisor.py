"""`mini-chat run`: the whole system on one machine, from two engines to N API and M worker processes.

The engines named by `database.url` and `redis.url` are used; one that is not named is started from its package in
`data_dir`. Then the schema is migrated, and every process is a child in a session of its own, so that a terminal's
Ctrl-C reaches the supervisor only. A child or engine that dies is started again. When every API answers `/readyz`, the
URLs are printed and written to `<data_dir>/run.json`.

SIGTERM, or Ctrl-C, stops in order: API, workers, scripted provider, Valkey, PostgreSQL. On Ctrl-C the API ends open
streams at once, on SIGTERM it drains them; workers always drain. A second signal kills all but the engines, which
still end in order. After a kill -9 of the supervisor the kernel ends the children, and the next start ends what is
left.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from signal import Signals
from urllib.parse import urlsplit

from shared.embedded.data_dir import DataDir, DirectoryLock
from shared.embedded.postgres import EmbeddedPostgres
from shared.embedded.server import EmbeddedServer
from shared.embedded.valkey import EmbeddedValkey
from shared.model_catalog.source import uses_openai
from shared.run.addresses import AddressPlanner, Listener
from shared.run.child import EXIT_CONFIGURATION, Child, Command, Stage
from shared.run.engines import EngineKeeper
from shared.run.environment import Configured, merge_variables, replace_environment, run_defaults, variable_of
from shared.run.output import Output
from shared.run.run_file import ProcessIds, RunFile, RunState
from shared.settings import Settings, load_settings

CommandLine = Callable[[Sequence[str]], list[str]]
"""Turns the arguments of `mini-chat` into a command line."""

# The API lets streams run on for 10 s after SIGTERM; a little more is for closing them.
_API_DRAIN_SECS = 12.0
_API_CLOSE_SECS = 5.0
_WORKER_CLOSE_SECS = 5.0
_DEMO_PROVIDER_CLOSE_SECS = 3.0
_READINESS_POLL_SECS = 0.05
_READINESS_TIMEOUT_SECS = 5.0


def run(*, apis: int, workers: int, host: str | None = None, port: int | None = None) -> int:
    """Run the system until it is told to stop; the exit code.

    Args:
        host: of the API; over the configuration, as is `port`.

    Raises:
        ConfigurationError: it cannot be started as configured.
        EngineError: an embedded engine does not start.
    """
    given = {variable_of(key): str(value) for key, value in (("host", host), ("port", port)) if value is not None}
    environment = merge_variables(os.environ, given)
    configured = Configured(environment)
    replace_environment(merge_variables(environment, run_defaults(configured)))
    supervisor = Supervisor(load_settings(), configured=configured, apis=apis, workers=workers)
    return asyncio.run(supervisor.run())


def console_command(arguments: Sequence[str]) -> list[str]:
    """`mini-chat …` of the environment we run in, so that process lists show it under its name."""
    beside = Path(sys.executable).with_name("mini-chat")
    script = str(beside) if beside.exists() else shutil.which("mini-chat")
    return [script, *arguments] if script else [sys.executable, "-m", "shared.cli", *arguments]


class Supervisor:
    """See the module."""

    def __init__(
        self,
        settings: Settings,
        *,
        configured: Configured,
        apis: int = 1,
        workers: int = 1,
        command_line: CommandLine = console_command,
        environment: Mapping[str, str] | None = None,
        output: Output | None = None,
    ) -> None:
        """
        Args:
            settings: with the defaults of `mini-chat run` applied.
            configured: tells a default from a choice.
            command_line: how to start our commands.
            environment: what children inherit; ours by default.
        """
        self._settings = settings
        self._apis = apis
        self._workers = workers
        self._command_line = command_line
        self._environment = dict(os.environ if environment is None else environment)
        self._output = output or Output()
        self._data_dir = DataDir(settings.data_dir)
        self._run_file = RunFile(self._data_dir.path / "run.json")
        self._planner = AddressPlanner(settings, configured, output=self._output)
        self._stop_requested = asyncio.Event()
        self._stop_signal = Signals.SIGTERM
        self._is_announced = False
        self._exit_code = 0
        self._valkey: EngineKeeper | None = None
        self._postgres: EngineKeeper | None = None
        self._migration: Child | None = None
        self._api_children: list[Child] = []
        self._worker_children: list[Child] = []
        self._demo_child: Child | None = None

    async def run(self) -> int:
        """Run until a signal or a refusal; the exit code.

        Raises:
            ConfigurationError, EngineError: it could not be started; everything that was started has been stopped.
        """
        self._data_dir.prepare()
        with DirectoryLock(self._data_dir.path / "lock", purpose="mini-chat run"), self._handling_signals():
            await asyncio.to_thread(self._run_file.stop_leftovers)
            self._addresses = self._planner.plan(
                apis=self._apis, workers=self._workers, with_demo_provider=not uses_openai()
            )
            try:
                await self._start_engines()
                if await self._migrate():
                    await self._run_children()
            finally:
                await self._stop_engines()
            self._run_file.remove()
        self._output.say("stopped")
        return self._exit_code

    def request_stop(self, number: Signals = Signals.SIGTERM) -> None:
        """Begin to stop as on this signal; asked again, kill the processes that are left."""
        if self._migration is not None:
            self._migration.kill()
        if not self._stop_requested.is_set():
            self._stop_signal = number
            self._stop_requested.set()
            self._output.say("stopping; once more to kill" if number == Signals.SIGINT else "stopping")
            return
        self._output.say("killing")
        for child in self._children:
            child.kill()

    # Phases

    async def _start_engines(self) -> None:
        folder = self._data_dir.path
        if self._settings.redis.url is None:
            self._valkey = self._keep(EmbeddedValkey(folder))
        if self._settings.database.url is None:
            self._postgres = self._keep(EmbeddedPostgres(folder))
        # All of them are waited for before an error counts: what has started must be known when we stop.
        results = await asyncio.gather(*(keeper.start() for keeper in self._keepers), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _migrate(self) -> bool:
        """Bring the schema up to date; whether to go on."""
        if self._stop_requested.is_set():
            return False
        self._migration = Child("migrate", command=lambda: self._command(["migrate"]), output=self._output)
        code = await self._migration.run_once()
        self._migration = None
        if code != 0 and not self._stop_requested.is_set():
            self._output.say("the migration failed")
            self._exit_code = EXIT_CONFIGURATION if code == EXIT_CONFIGURATION else 1
        return code == 0 and not self._stop_requested.is_set()

    async def _run_children(self) -> None:
        self._create_children()
        async with asyncio.TaskGroup() as group:
            for child in self._children:
                group.create_task(child.supervise(), name=child.name)
            for keeper in self._keepers:
                group.create_task(keeper.supervise(), name=keeper.engine.title)
            announcing = group.create_task(self._announce(), name="announce")
            await self._stop_requested.wait()
            announcing.cancel()
            await self._stop_children()
            for keeper in self._keepers:
                keeper.release()

    async def _announce(self) -> None:
        """Tell where everything is, once it works."""
        for index in range(self._apis):
            while not await self._is_ready(index):  # noqa: ASYNC110 (nobody would set an event)
                await asyncio.sleep(_READINESS_POLL_SECS)
        self._is_announced = True
        self._write_run_file()
        self._output.show(self._describe())

    async def _is_ready(self, index: int) -> bool:
        """Whether this API itself answers; its URL is looked up each time, as a restart may change it."""
        if not await _answers(f"{self._api_urls[index]}/readyz"):
            return False
        pid = self._api_children[index].pid
        return pid is not None and self._addresses.apis[index].is_held_by(pid)

    async def _stop_children(self) -> None:
        drain = Stage(Signals.SIGTERM, self._settings.drain.lead_secs + _API_DRAIN_SECS)
        close = Stage(Signals.SIGINT, _API_CLOSE_SECS)
        is_interrupt = self._stop_signal == Signals.SIGINT
        await _stop_all(self._api_children, [close] if is_interrupt else [drain, close])
        worker_secs = self._settings.worker.drain_secs + _WORKER_CLOSE_SECS
        await _stop_all(self._worker_children, [Stage(Signals.SIGTERM, worker_secs)])
        demo_children = [self._demo_child] if self._demo_child is not None else []
        await _stop_all(demo_children, [Stage(Signals.SIGTERM, _DEMO_PROVIDER_CLOSE_SECS)])

    async def _stop_engines(self) -> None:
        for keeper in self._keepers:
            await keeper.stop()

    # Processes

    @property
    def _children(self) -> list[Child]:
        return [*([self._demo_child] if self._demo_child else []), *self._api_children, *self._worker_children]

    @property
    def _keepers(self) -> list[EngineKeeper]:
        """In the order in which they stop."""
        return [keeper for keeper in (self._valkey, self._postgres) if keeper is not None]

    @property
    def _api_urls(self) -> list[str]:
        return [listener.origin + self._settings.prefix for listener in self._addresses.apis]

    def _keep(self, engine: EmbeddedServer) -> EngineKeeper:
        return EngineKeeper(engine, output=self._output, on_start=self._rewrite_run_file)

    def _create_children(self) -> None:
        if self._addresses.demo_provider is not None:
            self._demo_child = self._create_child("demo", self._demo_command)
        self._api_children = [
            self._create_child(f"api-{index + 1}", lambda index=index: self._api_command(index))  # type: ignore[misc]
            for index in range(self._apis)
        ]
        self._worker_children = [
            self._create_child(f"worker-{index + 1}", lambda index=index: self._worker_command(index))  # type: ignore[misc]
            for index in range(self._workers)
        ]

    def _create_child(self, name: str, command: Callable[[], Command]) -> Child:
        return Child(
            name,
            command=command,
            output=self._output,
            on_start=self._rewrite_run_file,
            on_refusal=self._end_after_refusal,
        )

    def _end_after_refusal(self, name: str) -> None:
        if not self._stop_requested.is_set():
            self._output.say(f"{name} does not start as configured")
            self._exit_code = EXIT_CONFIGURATION
            self.request_stop()

    def _api_command(self, index: int) -> Command:
        listener, metrics = self._addresses.apis[index], self._addresses.api_metrics[index]
        self._renew(listener, metrics)
        arguments = ["api", "--host", listener.host, "--port", str(listener.port)]
        return self._command(
            arguments,
            {
                "host": listener.host,
                "port": str(listener.port),
                "metrics.api_port": str(metrics.port if metrics is not None else 0),
            },
        )

    def _worker_command(self, index: int) -> Command:
        metrics = self._addresses.worker_metrics[index]
        self._renew(metrics)
        return self._command(["worker"], {"metrics.worker_port": str(metrics.port if metrics is not None else 0)})

    def _demo_command(self) -> Command:
        # Its port is in the configuration of the workers, so it cannot change while they run.
        listener = self._addresses.demo_provider
        assert listener is not None  # noqa: S101 (it has a child)
        return self._command(["demo-provider", "--host", listener.host, "--port", str(listener.port)])

    def _renew(self, *listeners: Listener | None) -> None:
        for listener in listeners:
            if listener is not None:
                self._planner.renew(listener)

    def _command(self, arguments: Sequence[str], keys: Mapping[str, str] | None = None) -> Command:
        demo_provider = self._addresses.demo_provider
        values = {
            "database.url": self._database_url,
            "redis.url": self._redis_url,
            "auth.mode": self._settings.auth.mode,
            "allow_http_providers": "true" if self._settings.allow_http_providers else "false",
            "worker.drain_secs": str(self._settings.worker.drain_secs),
            **({"demo_provider.port": str(demo_provider.port)} if demo_provider is not None else {}),
            **(keys or {}),
        }
        variables = {variable_of(key): value for key, value in values.items()}
        variables["PYTHONUNBUFFERED"] = "1"
        return Command(self._command_line(arguments), merge_variables(self._environment, variables))

    @property
    def _database_url(self) -> str:
        url = self._settings.database.url
        if self._postgres is not None:
            return self._postgres.engine.url
        assert url is not None  # noqa: S101 (otherwise the engine is ours)
        return url.get_secret_value()

    @property
    def _redis_url(self) -> str:
        url = self._settings.redis.url
        if self._valkey is not None:
            return self._valkey.engine.url
        assert url is not None  # noqa: S101 (otherwise the engine is ours)
        return url.get_secret_value()

    # Reports

    def _rewrite_run_file(self) -> None:
        if self._is_announced and not self._stop_requested.is_set():
            self._write_run_file()

    def _write_run_file(self) -> None:
        demo_provider = self._addresses.demo_provider
        self._run_file.write(
            RunState(
                api=self._api_urls,
                metrics=[f"{listener.origin}/metrics" for listener in self._addresses.metrics],
                demo_provider=demo_provider.origin if demo_provider is not None else None,
                database_url=self._database_url,
                redis_url=self._redis_url,
                pids=ProcessIds(
                    api=[child.pid for child in self._api_children if child.pid is not None],
                    worker=[child.pid for child in self._worker_children if child.pid is not None],
                    demo_provider=self._demo_child.pid if self._demo_child is not None else None,
                    postgres=self._postgres.engine.pid if self._postgres is not None else None,
                    valkey=self._valkey.engine.pid if self._valkey is not None else None,
                ),
            )
        )

    def _describe(self) -> str:
        settings = self._settings
        demo_provider = self._addresses.demo_provider
        rows = [
            *(("Chat page", f"{url}/") for url in self._api_urls[:1] if settings.page.enabled),
            *(("API", f"{url}{settings.base_path}") for url in self._api_urls),
            *(("OpenAPI", f"{url}/openapi.json") for url in self._api_urls[:1]),
            *(("Metrics", f"{listener.origin}/metrics") for listener in self._addresses.metrics),
            *([("Demo provider", demo_provider.origin)] if demo_provider is not None else []),
            ("PostgreSQL", self._database_url if self._postgres else hide_password(self._database_url)),
            ("Valkey", self._redis_url if self._valkey else hide_password(self._redis_url)),
            ("All, for scripts", str(self._data_dir.path / "run.json")),
        ]
        lines = ["", "mini-chat is ready", ""]
        lines += [f"  {name:<18}  {value}" for name, value in rows]
        if settings.auth.mode == "dev":
            lines += ["", "  Authentication is off (auth.mode: dev): every caller is the development user."]
        if demo_provider is not None and settings.catalog.path is None:
            lines += [
                "",
                "  " + "*" * 78,
                "  *  NO REAL MODEL ANSWERS: replies come from the scripted provider on this machine.",
                "  *  Set OPENAI_API_KEY, or catalog.path, for real ones.",
                "  " + "*" * 78,
            ]
        return "\n".join([*lines, "", "  Ctrl-C stops everything.", ""])

    @contextlib.contextmanager
    def _handling_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        numbers = (Signals.SIGINT, Signals.SIGTERM, Signals.SIGHUP)
        for number in numbers:
            loop.add_signal_handler(number, self.request_stop, number)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)


def hide_password(url: str) -> str:
    """For terminals and what records them; an embedded engine's password is worth nothing off this machine."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    user, _, host = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{user.partition(':')[0]}:***@{host}").geturl()


async def _stop_all(children: Sequence[Child], stages: Sequence[Stage]) -> None:
    async with asyncio.TaskGroup() as group:
        for child in children:
            group.create_task(child.stop(stages), name=f"stop {child.name}")


async def _answers(url: str) -> bool:
    """Whether a GET of this http URL is answered by 200."""
    address, _, path = url.removeprefix("http://").partition("/")
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(_READINESS_TIMEOUT_SECS):
            reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
            try:
                writer.write(f"GET /{path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n".encode())
                status = await reader.readline()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False
    return status.split(b" ")[1:2] == [b"200"]

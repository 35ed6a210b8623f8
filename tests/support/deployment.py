"""The product as it runs in production, on this machine: API and worker processes, and a scripted provider.

Processes are started from the console script, talk to real engines, and are stopped by their pids.
"""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import redis

from shared.embedded.ports import LOOPBACK, PortPicker
from tests.support.api import BASE
from tests.support.catalogs import acceptance_catalog, write_catalog
from tests.support.tokens import SECRET, Caller

START_TIMEOUT_SECS = 30
STOP_TIMEOUT_SECS = 20

# Nothing here speaks TLS, yet a client loads all certificate authorities unless it is given a context: 50 ms each.
_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@dataclass
class Process:
    """A process of the product and what it has written."""

    name: str
    popen: subprocess.Popen[bytes]
    log_path: Path
    port: int = 0
    host: str = LOOPBACK
    metrics_port: int = 0

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def metrics_url(self) -> str:
        return f"http://{LOOPBACK}:{self.metrics_port}/metrics"

    def kill(self) -> None:
        self.popen.kill()
        self.popen.wait()

    def terminate(self) -> None:
        """Ask it to end; a stopped one is continued, so that it can."""
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGCONT)
            self.popen.terminate()

    def stop(self) -> None:
        self.terminate()
        try:
            self.popen.wait(STOP_TIMEOUT_SECS)
        except subprocess.TimeoutExpired:
            self.kill()


@dataclass
class Deployment:
    """Processes that share one database and one Valkey database."""

    database_url: str
    valkey_url: str
    folder: Path
    variables: dict[str, str]
    provider: Process
    apis: list[Process] = field(default_factory=list)
    workers: list[Process] = field(default_factory=list)
    with_metrics: bool = False
    _ports: PortPicker = field(default_factory=PortPicker)
    _http: httpx.Client = field(default_factory=lambda: httpx.Client(verify=_NO_TLS, trust_env=False, timeout=10))

    def start_api(self, **variables: str) -> Process:
        """Start one more API process and wait until it can serve."""
        process = self.launch_api(**variables)
        self.wait_until_ready(process)
        return process

    def start_worker(self, **variables: str) -> Process:
        """Start one more worker process and wait until it takes jobs."""
        process = self.launch_worker(**variables)
        self.wait_until_ready(process)
        return process

    def launch_api(self, **variables: str) -> Process:
        return self.launch_api_at(LOOPBACK, self._ports.pick(), **variables)

    def launch_api_at(self, host: str, port: int, /, **variables: str) -> Process:
        metrics_port = self._pick_metrics_port()
        variables = self.variables | {"METRICS__API_PORT": str(metrics_port)} | variables
        process = _launch(self.folder, variables, "api", "--host", host, "--port", str(port), port=port, host=host)
        process.metrics_port = metrics_port
        self.apis.append(process)
        return process

    def launch_worker(self, **variables: str) -> Process:
        metrics_port = self._pick_metrics_port()
        variables = self.variables | {"METRICS__WORKER_PORT": str(metrics_port)} | variables
        process = _launch(self.folder, variables, "worker")
        process.metrics_port = metrics_port
        self.workers.append(process)
        return process

    def restart_api(self, process: Process) -> Process:
        """Start an API process again, where it was, as clients expect it there; wait until it can serve."""
        process.kill()
        again = _launch(self.folder, self.variables, "api", "--port", str(process.port), port=process.port)
        self.apis[self.apis.index(process)] = again
        self.wait_until_ready(again)
        return again

    def restart_provider(self) -> None:
        """Start the provider again, where it was; it has forgotten what it was asked."""
        port = self.provider.port
        self.provider = _launch(self.folder, self.variables, "demo-provider", "--port", str(port), port=port)
        self.wait_until_ready(self.provider)

    def wait_until_ready(self, *processes: Process) -> None:
        """Return once all of them can do their work.

        Raises:
            AssertionError: one ended, or took too long; the text is what it wrote.
        """
        for process in processes:
            _wait_for(process, self._readiness_of(process))

    @contextmanager
    def extra_api(self, host: str = LOOPBACK, /, **variables: str) -> Iterator[Process]:
        """One more API process for the length of the block."""
        process = self.launch_api_at(host, self._ports.pick(host=host), **variables)
        try:
            self.wait_until_ready(process)
            yield process
        finally:
            process.stop()
            self.apis.remove(process)

    def client(self, caller: Caller | None = None, *, api: int | Process = 0) -> httpx.AsyncClient:
        """A client of one API process, as another user of another tenant unless told."""
        process = self.apis[api] if isinstance(api, int) else api
        return http_client(process.url, headers=(caller or Caller()).headers)

    @property
    def provider_url(self) -> str:
        return self.provider.url

    def provider_requests(self, marker: str) -> list[dict[str, Any]]:
        """What the provider was asked, of the requests whose body contains `marker`."""
        answer = self._http.get(f"{self.provider_url}/_control/requests")
        return [request for request in answer.json() if marker in json.dumps(request["body"])]

    def queue_scripts(self, *scripts: dict[str, Any]) -> None:
        """Have the provider play these before any directive; give each a `match`, as the provider serves all tests."""
        self._http.post(f"{self.provider_url}/_control/scripts", json=scripts).raise_for_status()

    def valkey(self) -> redis.Redis:
        return redis.Redis.from_url(self.valkey_url)

    def stop(self) -> None:
        """End all processes at once: nobody needs an orderly stop of them, which takes an interpreter a second."""
        for process in [*self.apis, *self.workers, self.provider]:
            process.kill()
        self._http.close()

    def _pick_metrics_port(self) -> int:
        return self._ports.pick() if self.with_metrics else 0

    def _readiness_of(self, process: Process) -> Callable[[], bool]:
        if process.name == "worker":
            return lambda: "worker started" in process.log
        path = "/readyz" if process.name == "api" else "/v1/models"
        return lambda: self._answers(process.url + path)

    def _answers(self, url: str) -> bool:
        try:
            return self._http.get(url).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False


@contextmanager
def deployment(
    *,
    database_url: str,
    valkey_url: str,
    apis: int,
    workers: int,
    provider_timeouts: Mapping[str, float] | None = None,
    make_catalog: Callable[..., dict[str, Any]] = acceptance_catalog,
    with_metrics: bool = False,
    **variables: str,
) -> Iterator[Deployment]:
    """Start the product for the length of the block.

    Args:
        provider_timeouts: seconds, as in the catalog, for all providers.
        make_catalog: from the `provider_port`.
        with_metrics: each process serves its own.
        variables: of the environment, without their prefix, for every process.
    """
    with tempfile.TemporaryDirectory(prefix="mini-chat-") as name:
        folder = Path(name)
        ports = PortPicker()
        provider_port = ports.pick()
        tree = make_catalog(provider_port=provider_port)
        for provider_entry in tree["providers"].values():
            provider_entry["timeouts"] = dict(provider_timeouts or {})
        catalog = write_catalog(tree, folder)
        environment = {
            "AUTH__MODE": "jwt",
            "AUTH__JWT__ALGORITHMS": '["HS256"]',
            "AUTH__JWT__KEY": SECRET,
            "DATABASE__URL": database_url,
            "REDIS__URL": valkey_url,
            "CATALOG__PATH": str(catalog),
            "ALLOW_HTTP_PROVIDERS": "true",
            "WORKER__DRAIN_SECS": "0",
            "STREAMING__DISCONNECT_GRACE_SECS": "0",
        } | variables
        provider = _launch(folder, environment, "demo-provider", "--port", str(provider_port), port=provider_port)
        running = Deployment(
            database_url, valkey_url, folder, environment, provider, with_metrics=with_metrics, _ports=ports
        )
        try:
            # A start is mostly imports: together they take as long as the machine has cores, not one after the other.
            started = [running.launch_worker() for _ in range(workers)] + [running.launch_api() for _ in range(apis)]
            running.wait_until_ready(provider, *started)
            yield running
        finally:
            running.stop()


def http_client(url: str, *, headers: Mapping[str, str] | None = None) -> httpx.AsyncClient:
    """A client whose paths are relative to the base path of the API at `url`."""
    limits = httpx.Limits(max_connections=None)
    return httpx.AsyncClient(
        base_url=url + BASE, headers=headers, timeout=30, limits=limits, verify=_NO_TLS, trust_env=False
    )


def _launch(folder: Path, variables: Mapping[str, str], *command: str, port: int = 0, host: str = LOOPBACK) -> Process:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MINI_CHAT_", "OPENAI_"))}
    # Without bytecode every process compiles all it imports again, which is more than half of its start.
    inherited.pop("PYTHONDONTWRITEBYTECODE", None)
    environment = inherited | {f"MINI_CHAT_{name}": value for name, value in variables.items()}
    log_path = Path(tempfile.mkstemp(prefix=f"{command[0]}-", suffix=".log", dir=folder)[1])
    script = Path(sys.executable).with_name("mini-chat")
    with log_path.open("wb") as log:
        popen = subprocess.Popen(
            [sys.executable, str(script), *command],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Process(command[0], popen, log_path, port, host)


def _wait_for(process: Process, is_ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_SECS
    while not is_ready():
        if process.popen.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise AssertionError(f"{process.name} did not start:\n{process.log}")
        time.sleep(0.02)

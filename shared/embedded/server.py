"""What the two embedded engines have in common: one server process on 127.0.0.1 with its data in one folder.

    server = EmbeddedPostgres(data_dir)
    server.start()      # returns when it answers; data and password persist between starts
    server.url          # with user and password
    server.stop()       # orderly; kill() is what a power cut looks like

All methods block; call them from a thread where that matters. One object belongs to one thread at a time. The port is
the one used last, if it is still free; once an object has started, it keeps its port, so a server that died comes back
at the same URL.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from signal import Signals
from typing import IO, ClassVar, Self

from shared.embedded.data_dir import DataDir, DirectoryLock
from shared.embedded.errors import EngineError
from shared.embedded.leftovers import find_servers, stop_processes
from shared.embedded.ports import find_free_port, is_port_free
from shared.embedded.tether import launch

# Recovery after a kill replays at most a few checkpoints' worth of log.
START_TIMEOUT_SECS = 60.0
# Between looking for a free port and binding it, another process may take it.
_START_ATTEMPTS = 5
_RETRY_DELAY_SECS = 0.2
_POLL_SECS = 0.01
_KILL_WAIT_SECS = 10.0
_LOG_LIMIT_BYTES = 10_000_000
_LOG_TAIL_BYTES = 2_000


class EmbeddedServer(ABC):
    """Base of the engines; see the module."""

    name: ClassVar[str]
    """Of its folder and files in the data directory."""
    title: ClassVar[str]
    program: ClassVar[str]
    death_signal: ClassVar[Signals]
    """Ends the server when the process that started it is gone."""
    stop_stages: ClassVar[tuple[tuple[Signals, float], ...]]
    """Signals of an orderly stop, each with the seconds to wait before the next."""
    retry_signs: ClassVar[tuple[bytes, ...]]
    """Words in its log by which a failed start is worth another attempt."""

    def __init__(self, data_dir: Path, *, port: int | None = None, tethered: bool = True) -> None:
        """
        Args:
            port: a fixed one; without it the last used or any free one.
            tethered: let the server end with this process, however that ends.
        """
        self._data_dir = DataDir(data_dir)
        self._port = port
        self._tethered = tethered
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = DirectoryLock(self._data_dir.path / f"{self.name}.lock", purpose=f"{self.title} runs")
        self._password: str | None = None

    @property
    @abstractmethod
    def url(self) -> str:
        """Where clients connect, credentials included; known after the first start."""

    @property
    def port(self) -> int:
        if self._port is None:
            raise RuntimeError(f"{self.title} has not been started")
        return self._port

    @property
    def password(self) -> str:
        if self._password is None:
            raise RuntimeError(f"{self.title} has not been started")
        return self._password

    @property
    def pid(self) -> int | None:
        """Process id; None while it does not run."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def is_running(self) -> bool:
        return self.pid is not None

    @property
    def directory(self) -> Path:
        """The server's own folder."""
        return self._data_dir.path / self.name

    @property
    def log_path(self) -> Path:
        return self._data_dir.path / f"{self.name}.log"

    def start(self, *, timeout: float = START_TIMEOUT_SECS) -> None:
        """Start it and wait until it answers; stops a leftover of the same folder first.

        Raises:
            ConfigurationError: the folder cannot be used, or another process runs the server there.
            EngineError: the server ended at once, or did not answer in time.
        """
        if self.is_running:
            raise RuntimeError(f"{self.title} runs already")
        self._data_dir.prepare()
        self._lock.acquire()
        try:
            self._password = self._data_dir.read_or_make_secret(f"{self.name}.password")
            self.stop_leftovers()
            self._prepare()
            self._start(deadline=time.monotonic() + timeout)
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """Stop it in order, by force if it does not obey; nothing happens if it does not run."""
        process = self._process
        if process is not None:
            for signal, seconds in self.stop_stages:
                process.send_signal(signal)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(seconds)
                    break
        self.kill()

    def kill(self) -> None:
        """Kill it at once and leave its files as they are; nothing happens if it does not run."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(_KILL_WAIT_SECS)
            self._process = None
        self._lock.release()

    def stop_leftovers(self) -> None:
        """Stop servers in this folder that outlived whoever started them."""
        stop_processes(find_servers(self.program, directory=self.directory), stages=self.stop_stages)

    @abstractmethod
    def _prepare(self) -> None:
        """Create what the server needs in its folder."""

    @abstractmethod
    def _command(self, port: int) -> list[str]:
        """The server's command line."""

    def _stdin(self, port: int) -> bytes:  # noqa: ARG002 (for the engine that needs it)
        return b""

    @abstractmethod
    def _is_ready(self, process: subprocess.Popen[bytes], port: int) -> bool:
        """Whether this process, not another server on the port, answers."""

    def _start(self, *, deadline: float) -> None:
        for attempt in range(1, _START_ATTEMPTS + 1):
            port = self._choose_port(first=attempt == 1)
            with self._open_log() as log:
                begin = log.tell()
                # Nothing of our own environment: it holds secrets, and locale and library settings of no use there.
                self._process = process = launch(
                    self._command(port),
                    environment={"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"},
                    directory=self.directory,
                    log=log,
                    death_signal=self.death_signal if self._tethered else None,
                    account=self._data_dir.account,
                    stdin=self._stdin(port),
                )
            if self._wait_until_ready(process, port, deadline=deadline):
                self._port = port
                self._data_dir.write_port(f"{self.name}.port", port)
                return
            output = self._read_log(begin)
            if process.poll() is None:
                raise EngineError(f"{self.title} does not answer after its start; {self.log_path} ends with: {output}")
            if attempt == _START_ATTEMPTS or not any(sign.decode() in output for sign in self.retry_signs):
                raise EngineError(f"{self.title} ended at its start; {self.log_path} ends with: {output}")
            time.sleep(_RETRY_DELAY_SECS)

    def _choose_port(self, *, first: bool) -> int:
        if self._port is not None:
            return self._port
        last = self._data_dir.read_port(f"{self.name}.port") if first else None
        return last if last is not None and is_port_free(last) else find_free_port()

    def _wait_until_ready(self, process: subprocess.Popen[bytes], port: int, *, deadline: float) -> bool:
        while time.monotonic() < deadline and process.poll() is None:
            if self._is_ready(process, port):
                return True
            time.sleep(_POLL_SECS)
        return False

    @contextlib.contextmanager
    def _open_log(self) -> Iterator[IO[bytes]]:
        path = self.log_path
        if path.exists() and path.stat().st_size > _LOG_LIMIT_BYTES:
            path.replace(path.with_suffix(".log.1"))
        path.touch(mode=0o600)
        with path.open("ab") as log:
            yield log

    def _read_log(self, begin: int) -> str:
        with self.log_path.open("rb") as log:
            log.seek(begin)
            return log.read()[-_LOG_TAIL_BYTES:].decode(errors="replace").strip() or "(nothing)"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

"""A real PostgreSQL on 127.0.0.1, as a child of this process.

Initialised on first start: user and database `mini_chat`, UTF-8, PostgreSQL's own C.UTF-8 collation (the same on every
platform), passwords by SCRAM. It listens on loopback TCP only, so the password keeps other users of the machine out.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from signal import Signals
from typing import IO, ClassVar

from shared.embedded.data_dir import write_private_file
from shared.embedded.errors import EngineError
from shared.embedded.leftovers import find_servers, stop_processes
from shared.embedded.ports import LOOPBACK
from shared.embedded.programs import find_postgres
from shared.embedded.server import EmbeddedServer
from shared.embedded.tether import launch
from shared.settings import ConfigurationError

USER = DATABASE = "mini_chat"
MAX_CONNECTIONS = 300
_INIT_TIMEOUT_SECS = 60.0
_PID_FILE = "postmaster.pid"
# Lines of the server's pid file, counted from 0: its process id, and its state once it accepts connections.
_PID_LINE, _STATUS_LINE = 0, 7
# Commits still reach the operating system before they return, so that a killed server loses nothing, only a crashed
# machine does; without fsync, waiting for that costs next to nothing.
_FAST_AND_LOSSY = {"fsync": "off", "full_page_writes": "off"}
# Asking for each of 1,300 files took 4.5 s where asking for the whole file system took 0.04 s; Linux only.
_SYNC_METHOD = "syncfs" if sys.platform == "linux" else "fsync"


class EmbeddedPostgres(EmbeddedServer):
    """See the module; `url` is `postgresql://mini_chat:…@127.0.0.1:<port>/mini_chat`."""

    name = "postgres"
    title = "PostgreSQL"
    program = "postgres"
    # SIGINT is its "fast" shutdown: clients are disconnected, nothing is left to recover. SIGQUIT stops at once.
    death_signal = Signals.SIGINT
    stop_stages: ClassVar[tuple[tuple[Signals, float], ...]] = ((Signals.SIGINT, 15.0), (Signals.SIGQUIT, 5.0))
    # The second is a killed server whose sessions have not noticed yet.
    retry_signs = (b"Address already in use", b"pre-existing shared memory block")

    def __init__(self, data_dir: Path, *, port: int | None = None, durable: bool = True, tethered: bool = True) -> None:
        """
        Args:
            durable: False trades the safety of data in a crash of the machine (not of the server) for speed; for
                tests.
        """
        super().__init__(data_dir, port=port, tethered=tethered)
        self._durable = durable
        self._programs: Path | None = None

    @property
    def url(self) -> str:
        return f"postgresql://{USER}:{self.password}@{LOOPBACK}:{self.port}/{DATABASE}"

    def stop_leftovers(self) -> None:
        # Sessions of a killed server go at once; an orphaned server is asked to stop, and takes its sessions along.
        processes = find_servers(self.program, directory=self.directory)
        server = self._read_pid()
        orphans = [process for process in processes if process.pid == server]
        stop_processes(orphans, stages=self.stop_stages)
        stop_processes([process for process in processes if process.pid != server], stages=[(Signals.SIGQUIT, 2.0)])
        # We hold the lock and nothing runs here: a pid file is stale, and its id may by now be somebody else's, which
        # the server would take for another server of this folder.
        (self.directory / _PID_FILE).unlink(missing_ok=True)

    def _prepare(self) -> None:
        self._programs = find_postgres(self._data_dir)
        if (self.directory / "PG_VERSION").exists():
            self._data_dir.make_engine_dir(self.name)  # checks the owner
            return
        if self.directory.exists() and any(self.directory.iterdir()):
            raise ConfigurationError(f"data_dir: {self.directory} holds something that is not a PostgreSQL database")
        self._initialise()

    def _initialise(self) -> None:
        """Make the data folder under another name and rename it, so that a killed attempt leaves nothing half done."""
        temporary = self._data_dir.path / f"{self.name}.new"
        if temporary.exists():
            shutil.rmtree(temporary)
        self._data_dir.make_engine_dir(temporary.name)
        password_file = self._data_dir.path / f"{self.name}.initial-password"
        write_private_file(password_file, self.password + "\n")
        self._data_dir.give_away(password_file)
        try:
            self._run(
                [
                    *("initdb", "-D", str(temporary), "-U", USER, f"--pwfile={password_file}", "--auth=scram-sha-256"),
                    *("--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
                    "--no-sync",
                ],
                directory=temporary,
            )
        finally:
            password_file.unlink()
        self._run(
            ["postgres", "--single", *self._options(_FAST_AND_LOSSY), "-D", str(temporary), "postgres"],
            directory=temporary,
            stdin=f"CREATE DATABASE {DATABASE}\n".encode(),
        )
        if self._durable:  # once for all of the above
            self._run(
                ["initdb", "-D", str(temporary), "--sync-only", f"--sync-method={_SYNC_METHOD}"], directory=temporary
            )
        if self.directory.exists():
            self.directory.rmdir()
        temporary.rename(self.directory)

    def _run(self, command: Sequence[str], *, directory: Path, stdin: bytes = b"") -> None:
        with self._open_log() as log:
            begin = log.tell()
            process = self._launch_program(command, directory=directory, log=log, stdin=stdin)
            try:
                code = process.wait(_INIT_TIMEOUT_SECS)
            except BaseException:
                process.kill()
                process.wait()
                raise
        if code != 0:
            raise EngineError(f"PostgreSQL: {command[0]} failed: {self._read_log(begin)}")

    def _launch_program(
        self, command: Sequence[str], *, directory: Path, log: IO[bytes], stdin: bytes
    ) -> subprocess.Popen[bytes]:
        return launch(
            [str(self._program_path(command[0])), *command[1:]],
            environment={"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"},
            directory=directory,
            log=log,
            death_signal=Signals.SIGKILL if self._tethered else None,
            account=self._data_dir.account,
            stdin=stdin,
        )

    def _program_path(self, name: str) -> Path:
        assert self._programs is not None  # noqa: S101 (`_prepare` comes first)
        return self._programs / name

    def _command(self, port: int) -> list[str]:
        options = {
            "port": str(port),
            "listen_addresses": LOOPBACK,
            "unix_socket_directories": "",
            "max_connections": str(MAX_CONNECTIONS),
            "timezone": "UTC",
            "log_timezone": "UTC",
            "recovery_init_sync_method": _SYNC_METHOD,
            **({} if self._durable else _FAST_AND_LOSSY),
        }
        return [str(self._program_path("postgres")), "-D", str(self.directory), *self._options(options)]

    def _is_ready(self, process: subprocess.Popen[bytes], port: int) -> bool:  # noqa: ARG002 (the file says more)
        """The server itself writes its state into its pid file."""
        try:
            lines = (self.directory / _PID_FILE).read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return False
        return (
            len(lines) > _STATUS_LINE
            and lines[_PID_LINE].strip() == str(process.pid)
            and lines[_STATUS_LINE].strip() == "ready"
        )

    def _read_pid(self) -> int | None:
        try:
            return int((self.directory / _PID_FILE).read_text(encoding="utf-8").split("\n", 1)[0])
        except (OSError, ValueError):
            return None

    @staticmethod
    def _options(options: dict[str, str]) -> list[str]:
        return [part for name, value in options.items() for part in ("-c", f"{name}={value}")]

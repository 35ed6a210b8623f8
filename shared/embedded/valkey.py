"""A real Valkey on 127.0.0.1, as a child of this process.

It never evicts, keeps an append-only file that is flushed every second, and asks for a password. Its configuration
arrives on standard input, so the password is in no command line and in no file but our own.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
from pathlib import Path
from signal import Signals
from typing import ClassVar

from shared.embedded.ports import LOOPBACK
from shared.embedded.programs import find_valkey
from shared.embedded.server import EmbeddedServer

# Short, as it may be another server that took the port and says nothing; we ask again.
_PROBE_TIMEOUT_SECS = 0.25


class EmbeddedValkey(EmbeddedServer):
    """See the module; `url` is `redis://:…@127.0.0.1:<port>/0`."""

    name = "valkey"
    title = "Valkey"
    program = "valkey-server"
    death_signal = Signals.SIGTERM
    stop_stages: ClassVar[tuple[tuple[Signals, float], ...]] = ((Signals.SIGTERM, 10.0),)
    retry_signs = (b"Address already in use",)

    def __init__(
        self, data_dir: Path, *, port: int | None = None, persistence: bool = True, tethered: bool = True
    ) -> None:
        """
        Args:
            persistence: False keeps everything in memory only; for tests.
        """
        super().__init__(data_dir, port=port, tethered=tethered)
        self._persistence = persistence
        self._program: Path | None = None

    @property
    def url(self) -> str:
        return f"redis://:{self.password}@{LOOPBACK}:{self.port}/0"

    def restart(self, *, wipe: bool = False) -> None:
        """Stop and start at the same port; `wipe` loses all data, as a server without persistence does."""
        self.stop()
        if wipe:
            for path in self.directory.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.start()

    def _prepare(self) -> None:
        self._program = find_valkey(self._data_dir)
        self._data_dir.make_engine_dir(self.name)

    def _command(self, port: int) -> list[str]:  # noqa: ARG002 (on standard input)
        return [str(self._program), "-"]

    def _stdin(self, port: int) -> bytes:
        lines = [
            f"bind {LOOPBACK}",
            f"port {port}",
            f"requirepass {self.password}",
            f"dir {_quote(str(self.directory))}",
            f"appendonly {'yes' if self._persistence else 'no'}",
            "appendfsync everysec",
            'save ""',
            "maxmemory-policy noeviction",
            "daemonize no",
            'logfile ""',
        ]
        return "\n".join([*lines, ""]).encode()

    def _is_ready(self, process: subprocess.Popen[bytes], port: int) -> bool:  # noqa: ARG002 (only it has the password)
        password = self.password.encode()
        try:
            with socket.create_connection((LOOPBACK, port), timeout=_PROBE_TIMEOUT_SECS) as connection:
                connection.sendall(b"*2\r\n$4\r\nAUTH\r\n$%d\r\n%s\r\n*1\r\n$4\r\nPING\r\n" % (len(password), password))
                answer = b""
                while answer.count(b"\r\n") < 2:
                    data = connection.recv(256)
                    if not data:
                        return False
                    answer += data
        except OSError:
            return False
        return answer.endswith(b"+PONG\r\n")


def _quote(text: str) -> str:
    """As a double-quoted argument of a configuration line."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'

"""`<data_dir>/run.json`: where the running system is, for scripts and for processes that want to join.

    {"api": [url, …], "metrics": [url, …], "demo_provider": url | null, "database_url": …, "redis_url": …,
     "pids": {"api": [n, …], "worker": [n, …], "demo_provider": n | null, "postgres": n | null, "valkey": n | null}}

Only its owner can read it, as both URLs hold passwords. It is replaced as a whole, so a reader never sees half of it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from signal import Signals
from typing import Any

import psutil

from shared.embedded.data_dir import write_private_file
from shared.embedded.leftovers import stop_processes

# The kernel tells when a process began relative to a boot time that is rounded to seconds.
_CLOCK_ERROR_SECS = 2.0
_KILL_AT_ONCE = ((Signals.SIGKILL, 5.0),)


@dataclass(frozen=True)
class ProcessIds:
    """Null engines are somebody else's, or between two lives."""

    api: list[int] = field(default_factory=list)
    worker: list[int] = field(default_factory=list)
    demo_provider: int | None = None
    postgres: int | None = None
    valkey: int | None = None


@dataclass(frozen=True)
class RunState:
    """The content of the file, member for member."""

    api: list[str]
    metrics: list[str]
    demo_provider: str | None
    database_url: str
    redis_url: str
    pids: ProcessIds


class RunFile:
    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, state: RunState) -> None:
        write_private_file(self._path, json.dumps(asdict(state), indent=1) + "\n")

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)

    def stop_leftovers(self) -> None:
        """Kill processes of a run that was itself killed, where the kernel has not done so; then remove the file.

        Process ids are used again, but a process that has a recorded id, began before the file was written and runs
        one of our commands was our child.
        """
        try:
            written = self._path.stat().st_mtime
            state = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return
        stop_processes(
            [process for pid in _child_ids(state) if (process := _find_command(pid, before=written)) is not None],
            stages=_KILL_AT_ONCE,
        )
        self.remove()


def _child_ids(state: Any) -> list[int]:
    ids = state.get("pids", {}) if isinstance(state, dict) else {}
    children = [*ids.get("api", []), *ids.get("worker", []), ids.get("demo_provider")]
    return [pid for pid in children if isinstance(pid, int)]


def _find_command(pid: int, *, before: float) -> psutil.Process | None:
    try:
        process = psutil.Process(pid)
        words = process.cmdline()
        is_command = any("mini-chat" in word or word == "shared.cli" for word in words)
        is_old_enough = process.create_time() <= before + _CLOCK_ERROR_SECS
    except psutil.Error:
        return None
    return process if is_command and is_old_enough else None

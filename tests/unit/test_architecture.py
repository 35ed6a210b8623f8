"""Rules about the source as a whole."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROCESSES = ("api", "worker", "shared")
LOCKS = ("requirements.lock", "deploy/requirements.lock")
PAGE_LOCK = "api/web/package-lock.json"

MAX_LINES = 450
LONGER_ONES = {
    "shared/settings.py",  # a list of declarations, read by looking a group up
    "shared/db/migrations/versions/0001_create_the_schema.py",  # a record: never edited, so never split
}


def test_the_layers_hold() -> None:
    """What pyproject.toml says about who may import whom."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_no_module_has_become_too_long() -> None:
    """Split it where its second reason to change begins."""
    lengths = {
        path.relative_to(ROOT).as_posix(): len(path.read_text(encoding="utf-8").splitlines())
        for folder in PROCESSES
        for path in (ROOT / folder).rglob("*.py")
    }
    assert {name for name, length in lengths.items() if length > MAX_LINES} == LONGER_ONES


def test_what_the_product_imports_is_declared() -> None:
    assert _imported(*PROCESSES) - _requirements("run-time") == set()


def test_what_the_tests_import_is_declared() -> None:
    assert _imported("tests") - _requirements("run-time") - _requirements("dev") == set()


@pytest.mark.parametrize("name", [*LOCKS, PAGE_LOCK])
def test_a_lock_names_no_address(name: str) -> None:
    """Where packages come from is for each machine to say."""
    text = (ROOT / name).read_text(encoding="utf-8")
    assert re.findall(r".*(?:https?://|file:|--(?:extra-)?index-url|--find-links|^-i ).*", text, re.MULTILINE) == []


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_pins_everything_by_hash(name: str) -> None:
    assert all("--hash=sha256:" in entry for entry in _locked(name).values())


def test_the_pages_lock_pins_everything_by_hash() -> None:
    packages = json.loads((ROOT / PAGE_LOCK).read_text(encoding="utf-8"))["packages"]
    assert all(entry["integrity"].startswith("sha512-") for name, entry in packages.items() if name)


def test_the_image_runs_what_was_tested() -> None:
    """Its lock is a part of the whole one."""
    assert _locked("deploy/requirements.lock").items() <= _locked("requirements.lock").items()


def test_the_lock_has_what_is_declared() -> None:
    assert _requirements("run-time") <= set(_locked("deploy/requirements.lock"))
    assert _requirements("dev") <= set(_locked("requirements.lock"))


def _imported(*folders: str) -> set[str]:
    """Distributions outside the standard library and outside this repository."""
    modules = {
        name.partition(".")[0]
        for folder in folders
        for path in (ROOT / folder).rglob("*.py")
        for name in _imports_of(ast.parse(path.read_bytes()))
    }
    outside = modules - sys.stdlib_module_names - {*PROCESSES, "tests"}
    distributions = metadata.packages_distributions()
    return {_normal(distributions[module][0]) for module in outside}


def _imports_of(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module


def _requirements(group: str) -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = project["dependencies"] if group == "run-time" else project["optional-dependencies"][group]
    return {_normal(re.split(r"[\[<>=!~; ]", line, maxsplit=1)[0]) for line in lines}


def _locked(name: str) -> dict[str, str]:
    """Pin, marker and hashes by distribution, without the notes on who wants it."""
    text = re.sub(r"^ *#.*\n", "", (ROOT / name).read_text(encoding="utf-8"), flags=re.MULTILINE)
    entries = [entry for entry in re.split(r"\n(?=\S)", text) if entry.strip()]
    return {entry.partition("==")[0]: re.sub(r"\s+", " ", entry).strip(" \\") for entry in entries}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()

"""What `make audit` makes of the answers of pip-audit."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from tests.support import audit

CLEAN = {"name": "arq", "version": "0.28.0", "vulns": []}
FLAWED = {"name": "old", "version": "1.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["1.1"], "aliases": []}]}
SKIPPED = {"name": "own", "skip_reason": "Dependency not found on PyPI and could not be audited: own (1)"}


def run_with(monkeypatch: pytest.MonkeyPatch, stdout: str, *, returncode: int = 0) -> int:
    def answer(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        assert [command[index + 1] for index, word in enumerate(command) if word == "-r"] == list(audit.LOCKS)
        return subprocess.CompletedProcess(command, returncode, stdout, "ConnectionError: nobody there")

    monkeypatch.setattr(subprocess, "run", answer)
    return audit.main()


def report(*packages: dict[str, Any]) -> str:
    return json.dumps({"dependencies": packages, "fixes": []})


def test_a_known_vulnerability_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_with(monkeypatch, report(CLEAN, FLAWED, FLAWED, SKIPPED), returncode=1) == audit.FOUND
    out = capsys.readouterr().out
    assert "old 1.0: PYSEC-1, fixed in 1.1" in out
    assert "2 packages looked up, 1 known vulnerabilities" in out
    assert "NOT AUDITED: 1 packages" in out


def test_nothing_found_passes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_with(monkeypatch, report(CLEAN)) == 0
    assert "NOT AUDITED" not in capsys.readouterr().out


@pytest.mark.parametrize("stdout", [report(SKIPPED), ""])
def test_advisories_out_of_reach_pass_and_are_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], stdout: str
) -> None:
    assert run_with(monkeypatch, stdout, returncode=1) == 0
    assert "NOT AUDITED" in capsys.readouterr().out


def test_an_audit_that_takes_too_long_passes_and_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def hang(command: list[str], **_: Any) -> None:
        raise subprocess.TimeoutExpired(command, 1)

    monkeypatch.setattr(subprocess, "run", hang)
    assert audit.main() == 0
    assert "NOT AUDITED" in capsys.readouterr().out

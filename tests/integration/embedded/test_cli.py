"""The command line: what each command needs, what `run` assumes, and how refusals look."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from shared import cli
from shared.run.environment import Configured, merge_variables, run_defaults
from shared.run.supervisor import console_command


@pytest.mark.parametrize("command", ["api", "worker"])
def test_processes_that_need_urls_say_so(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([command]) == 2
    assert capsys.readouterr().err == (
        "mini-chat: database.url and redis.url: not set. Set MINI_CHAT_DATABASE__URL and MINI_CHAT_REDIS__URL,"
        " or use `mini-chat run`, which starts embedded engines\n"
    )


def test_a_bad_configuration_is_one_line_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MINI_CHAT_NOSUCH", "1")
    assert cli.main(["migrate"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("mini-chat: MINI_CHAT_NOSUCH: unknown key")
    assert error.count("\n") == 1


def test_a_migration_needs_a_database(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["migrate"]) == 2
    assert capsys.readouterr().err == "mini-chat: database.url: not set. Set MINI_CHAT_DATABASE__URL\n"


def test_a_command_that_is_interrupted_says_no_more_than_that(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("shared.db.migrate.migrate", interrupt)
    assert cli.main(["migrate"]) == 130
    assert capsys.readouterr().err == "mini-chat: interrupted\n"


def test_run_refuses_development_mode_on_an_open_host(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "environ", {**os.environ, "MINI_CHAT_DATA_DIR": str(data_dir)})
    assert cli.main(["run", "--host", "0.0.0.0"]) == 2  # noqa: S104 (refused)
    assert "auth.mode: dev refuses a host other than loopback" in capsys.readouterr().err
    assert not data_dir.exists()


@pytest.mark.parametrize("arguments", [["nosuch"], [], ["run", "--api", "-1"], ["api", "--port", "70000"]])
def test_wrong_usage_is_exit_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    assert end.value.code == 2
    assert "usage: mini-chat" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith("mini-chat ")


def test_run_is_for_development_unless_configured() -> None:
    assert run_defaults(Configured({})) == {
        "MINI_CHAT_AUTH__MODE": "dev",
        "MINI_CHAT_ALLOW_HTTP_PROVIDERS": "true",
    }


@pytest.mark.parametrize(
    "environment",
    [
        {"MINI_CHAT_AUTH__MODE": "jwt"},
        {"mini_chat_auth__mode": "jwt"},
        {"MINI_CHAT_AUTH": '{"mode": "jwt"}'},
    ],
)
def test_what_the_environment_sets_is_left_alone(environment: dict[str, str]) -> None:
    assert set(run_defaults(Configured(environment))) == {"MINI_CHAT_ALLOW_HTTP_PROVIDERS"}


def test_what_the_file_sets_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("auth: {mode: jwt}\nport: 8080\nmetrics: {prefix: x}\n")
    configured = Configured({"MINI_CHAT_CONFIG": str(file)})
    assert [key in configured for key in ("auth.mode", "port", "metrics.prefix")] == [True] * 3
    assert [key in configured for key in ("auth.jwt", "host", "metrics.api_port")] == [False] * 3


def test_merging_replaces_a_variable_in_any_case_of_letters() -> None:
    assert merge_variables({"mini_chat_port": "1", "PATH": "/"}, {"MINI_CHAT_PORT": "2"}) == {
        "MINI_CHAT_PORT": "2",
        "PATH": "/",
    }


def test_children_are_started_by_the_script_beside_the_interpreter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    script = tmp_path / "mini-chat"
    script.touch()
    assert console_command(["api", "--port", "1"]) == [str(script), "api", "--port", "1"]

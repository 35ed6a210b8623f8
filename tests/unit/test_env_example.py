"""`.env.example` and the README's table say what the code does."""

from __future__ import annotations

import os

import pytest

from shared.settings import load_settings
from tests.support.settings_reference import (
    ENV_EXAMPLE,
    README,
    list_settings,
    read_meanings,
    write_env_example,
    write_table,
)


def test_the_table_of_settings_is_up_to_date() -> None:
    readme = README.read_text(encoding="utf-8")
    assert write_table(readme) == readme, "run `make settings-docs`"


def test_every_setting_is_explained() -> None:
    meanings = read_meanings(README.read_text(encoding="utf-8"))
    assert [setting.key for setting in list_settings() if not meanings.get(setting.key)] == []


def test_env_example_is_up_to_date() -> None:
    meanings = read_meanings(README.read_text(encoding="utf-8"))
    assert ENV_EXAMPLE.read_text(encoding="utf-8") == write_env_example(meanings), "run `make settings-docs`"


def test_env_example_sets_nothing() -> None:
    assert [line for line in ENV_EXAMPLE.read_text(encoding="utf-8").splitlines() if line and line[0] != "#"] == []


def test_the_defaults_shown_are_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each default, given back as a variable, changes nothing."""
    for name in [name for name in os.environ if name.upper().startswith("MINI_CHAT_")]:
        monkeypatch.delenv(name)
    expected = load_settings()
    for setting in list_settings():
        if setting.default is not None:
            monkeypatch.setenv(setting.variable, setting.default)
    assert load_settings() == expected

"""What `mini-chat run` assumes where nothing is configured, written as environment variables.

The variables go to the supervisor itself and to its children, so all of them read one configuration. A key counts as
configured when its variable, its group's variable (JSON) or the file named by `MINI_CHAT_CONFIG` sets it; what is
configured is left alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shared.settings import CONFIG_FILE_VARIABLE, ENV_PREFIX, read_yaml

RUN_DEFAULTS: Mapping[str, str] = {"auth.mode": "dev", "allow_http_providers": "true"}


class Configured:
    """Answers which keys somebody has set.

    Raises:
        ConfigurationError: the file cannot be read.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._variables = {name.upper(): value for name, value in environment.items()}
        file = environment.get(CONFIG_FILE_VARIABLE)
        self._tree = read_yaml(Path(file)) if file else {}

    def __contains__(self, key: object) -> bool:
        if not isinstance(key, str):
            return False
        group, _, member = key.partition(".")
        if variable_of(key) in self._variables:
            return True
        if not member:
            return group in self._tree
        return _has_member(self._tree.get(group), member) or _has_member(self._read_group(group), member)

    def _read_group(self, group: str) -> Any:
        try:
            return json.loads(self._variables.get(variable_of(group), "null"))
        except json.JSONDecodeError:
            return None  # reported when the settings are read


def run_defaults(configured: Configured) -> dict[str, str]:
    """The variables of every default of `mini-chat run` that nobody overrides."""
    return {variable_of(key): value for key, value in RUN_DEFAULTS.items() if key not in configured}


def variable_of(key: str) -> str:
    """`auth.mode` -> `MINI_CHAT_AUTH__MODE`."""
    return ENV_PREFIX + key.upper().replace(".", "__")


def merge_variables(environment: Mapping[str, str], variables: Mapping[str, str]) -> dict[str, str]:
    """An environment with these variables, and without others of the same name in another case of letters."""
    wanted = {name.upper() for name in variables}
    return {**{name: value for name, value in environment.items() if name.upper() not in wanted}, **variables}


def replace_environment(environment: Mapping[str, str]) -> None:
    """Make this the environment of our own process, and so of its settings and its children."""
    for name in set(os.environ) - set(environment):
        del os.environ[name]
    os.environ.update(environment)


def _has_member(tree: Any, member: str) -> bool:
    return isinstance(tree, Mapping) and member in tree

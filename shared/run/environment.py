"""What `mini-chat run` assumes where nothing is configured, written as environment variables.

The variables go to the supervisor itself and to its children, so all of them read one configuration. A key counts as
configured when its variable, its group's variable (JSON) or the file named by `MINI_CHAT_CONFIG` sets it; what is
configured is left alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from shared.settings import CONFIG_FILE_VARIABLE, ENV_PREFIX, read_yaml

Source = Literal["default", "file", "environment"]

RUN_DEFAULTS: Mapping[str, str] = {"auth.mode": "dev", "allow_http_providers": "true"}


class Configured:
    """Answers which keys somebody has set, and where.

    Raises:
        ConfigurationError: the file cannot be read.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        # Empty ones count as not set, as they do for the settings.
        self._variables = {name.upper(): value for name, value in environment.items() if value}
        file = environment.get(CONFIG_FILE_VARIABLE)
        self.file = Path(file) if file else None
        self._tree = read_yaml(self.file) if self.file else {}

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self.source_of(key) != "default"

    def source_of(self, key: str) -> Source:
        """Where the value of a dotted key comes from."""
        path = key.split(".")
        if variable_of(key) in self._variables:
            return "environment"
        for depth in range(1, len(path)):
            if _has_member(self._read_group(".".join(path[:depth])), path[depth:]):
                return "environment"
        return "file" if _has_member(self._tree, path) else "default"

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


def _has_member(tree: Any, path: Sequence[str]) -> bool:
    for name in path:
        if not isinstance(tree, Mapping) or name not in tree:
            return False
        tree = tree[name]
    return True

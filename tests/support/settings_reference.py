"""Keeps two descriptions of the settings in step with the code: the README's table and `.env.example`.

Keys, defaults and ranges come from `Settings`. What a setting means is written once, in the last column of the
README's table, and kept when the table is rewritten. After changing a setting run `make settings-docs`, and fill in
the meaning of a new one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import AfterValidator, BaseModel
from pydantic.fields import FieldInfo

from shared.run.environment import variable_of
from shared.settings import CONFIG_FILE_VARIABLE, Settings

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
ENV_EXAMPLE = ROOT / ".env.example"

BEGIN = "<!-- settings: the table is written by `make settings-docs`; only the last column is edited by hand -->"
END = "<!-- /settings -->"
_ROW = re.compile(r"^\| `(?P<key>[a-z0-9_.]+)` \|.*\| (?P<meaning>[^|]*?) \|$", re.MULTILINE)
_LONG_TEXT = 40
_NOTHING = "-"
_SIGNS = {"ge": "≥", "gt": ">", "le": "≤"}


@dataclass(frozen=True, slots=True)
class Setting:
    """One leaf of the tree. `default` is as the environment writes it, None if there is none."""

    key: str
    default: str | None
    values: str

    @property
    def variable(self) -> str:
        return variable_of(self.key)


def list_settings(model: type[BaseModel] = Settings, *, above: str = "") -> Iterator[Setting]:
    """Every setting in the order of the code, single keys before groups."""
    groups = []
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            groups.append((name, field.annotation))
        else:
            yield Setting(f"{above}{name}", _default_of(field), _values_of(field))
    for name, group in groups:
        yield from list_settings(group, above=f"{above}{name}.")


def read_meanings(readme: str) -> dict[str, str]:
    """Meaning by key, as the README's table has it."""
    return {row["key"]: row["meaning"].strip() for row in _ROW.finditer(_table_of(readme))}


def write_table(readme: str) -> str:
    """The README with its table brought up to date."""
    meanings = read_meanings(readme)
    lines = ["| Key | Default | Values | Meaning |", "|---|---|---|---|"]
    for setting in list_settings():
        default = _NOTHING if not setting.default else f"`{setting.default}`"
        if len(default) > _LONG_TEXT:
            default = "a text"
        lines.append(f"| `{setting.key}` | {default} | {setting.values} | {meanings.get(setting.key, '')} |")
    return readme.replace(_table_of(readme), "\n".join(["", "", *lines, "", ""]))


def write_env_example(meanings: Mapping[str, str]) -> str:
    """The text of `.env.example`; every line of it is a comment."""
    lines = [
        "# Every setting, with its default. Copy this file to .env and uncomment what you change: docker-compose.yml",
        "# reads it, and so does a shell with: set -a; . ./.env; set +a",
        "# A YAML file of the same tree can hold them instead; the environment wins over it:",
        f"# {CONFIG_FILE_VARIABLE}=/etc/mini-chat/settings.yaml",
    ]
    group = None
    for setting in list_settings():
        above = setting.key.rpartition(".")[0]
        if above != group:
            group = above
            lines += ["", f"# --- {group or 'general'}"]
        lines += [f"# {_plain(meanings.get(setting.key, ''))}", f"# {setting.variable}={_quoted(setting.default)}"]
    return "\n".join([*lines, ""])


def main() -> None:
    readme = write_table(README.read_text(encoding="utf-8"))
    README.write_text(readme, encoding="utf-8")
    ENV_EXAMPLE.write_text(write_env_example(read_meanings(readme)), encoding="utf-8")


def _table_of(readme: str) -> str:
    """What lies between the markers."""
    return readme.partition(BEGIN)[2].partition(END)[0]


def _default_of(field: FieldInfo) -> str | None:
    if field.default_factory is not None or field.default is None:
        return None  # made at run time, or absent
    if isinstance(field.default, bool | tuple):
        return json.dumps(field.default)
    return str(field.default)


def _values_of(field: FieldInfo) -> str:
    choices = _choices_of(field.annotation)
    if choices:
        return ", ".join(f"`{choice}`" for choice in choices)
    limits = [text for item in field.metadata if (text := _limit(item))]
    return ", ".join(limits) or _NOTHING


def _choices_of(annotation: Any) -> tuple[str, ...]:
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    if annotation is bool:
        return ("true", "false")
    return ()


def _limit(item: object) -> str:
    """How the table tells one constraint of a field; the empty text if it does not."""
    if isinstance(item, AfterValidator):
        return getattr(item.func, "__name__", "").removeprefix("_require_").replace("_", " ")
    for name, sign in _SIGNS.items():
        if (bound := getattr(item, name, None)) is not None:
            return f"{sign} {bound}"
    return "not empty" if getattr(item, "min_length", 0) else ""


def _plain(markdown: str) -> str:
    return markdown.replace("`", "")


def _quoted(value: str | None) -> str:
    """As both a shell and an environment file of Docker read it."""
    if value is None:
        return ""
    if '"' in value or value.startswith("["):
        return f"'{value}'"
    return f'"{value}"' if re.search(r"[\s<>()&;']", value) else value


if __name__ == "__main__":
    main()

"""What the operator's commands have in common: exit codes, tables, JSON, and failures of one line.

    0  done, and nothing is wrong
    1  something is wrong, was not found or could not be done; what could be done is done
    2  wrong usage, or a configuration that cannot be used
    130  Ctrl-C, as shells call it

Results go to standard output, what is wrong with the call to standard error. What comes from users or providers is
printed without anything that a terminal would obey. `shared.db.command` has what commands on a database need besides.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

import orjson

EXIT_OK: Final = 0
EXIT_FAILURE: Final = 1
EXIT_CONFIGURATION: Final = 2
EXIT_INTERRUPTED: Final = 130


def fail(error: object, code: int = EXIT_FAILURE) -> int:
    """Say what is wrong, in one line; returns the exit code."""
    sys.stderr.write(f"mini-chat: {error}\n")
    return code


def write_line(line: str = "") -> None:
    sys.stdout.write(line.rstrip(" ") + "\n")


def write_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, indent: str = "") -> None:
    """Columns as wide as their longest cell; a row is one line, whatever its cells hold."""
    table = [header, *([in_one_line(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        write_line(indent + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))


def write_json(value: object) -> None:
    text = orjson.dumps(value, default=str, option=orjson.OPT_INDENT_2)  # asyncpg has a UUID of its own
    sys.stdout.write(text.decode() + "\n")


def in_one_line(text: str, *, at_most: int | None = None) -> str:
    """`text` without line ends and control characters, cut to so many characters."""
    line = "".join(char if char.isprintable() else " " for char in text)
    return line if at_most is None or len(line) <= at_most else line[: at_most - 1] + "…"

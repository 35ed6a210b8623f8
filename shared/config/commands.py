"""What `mini-chat config` does; `shared.config.command_line` tells how it is called."""

from __future__ import annotations

import argparse
import json
import os
from typing import Any, Final

from shared.config.effective import effective_values
from shared.console import EXIT_OK, in_one_line, write_json, write_table
from shared.run.environment import Configured
from shared.settings import Settings

_LONGEST_VALUE: Final = 80


def run(settings: Settings, options: argparse.Namespace) -> int:
    """The exit code."""
    configured = Configured(os.environ)
    values = list(effective_values(settings, configured))
    if options.json:
        write_json(
            {
                "file": None if configured.file is None else str(configured.file),
                "settings": {one.key: {"value": one.value, "source": one.source} for one in values},
            }
        )
    else:
        write_table(("KEY", "VALUE", "SOURCE"), [(one.key, _cell(one.value), one.source) for one in values])
    return EXIT_OK


def _cell(value: Any) -> str:
    if value is None or value == "":
        return "-"
    text = value if isinstance(value, str) else json.dumps(value)
    return in_one_line(text, at_most=_LONGEST_VALUE)

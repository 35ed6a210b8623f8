"""`mini-chat config`: the configuration in force. Secrets are masked, always.

    mini-chat config [--json]

Exit code 0, or 2 if the configuration cannot be used.
"""

from __future__ import annotations

import argparse


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    config = commands.add_parser("config", help="show the configuration in force, and where each value comes from")
    config.add_argument("--json", action="store_true", help="write JSON, for scripts")

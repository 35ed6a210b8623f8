"""`mini-chat run` with embedded engines and dummy commands.

Usage: run_dummies.py <data_dir>
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from shared.run.environment import Configured
from shared.run.supervisor import Supervisor
from shared.settings import Settings

DUMMY = Path(__file__).with_name("dummy_command.py")


def dummy_command(arguments: Sequence[str]) -> list[str]:
    return [sys.executable, str(DUMMY), *arguments]


if __name__ == "__main__":
    settings = Settings(data_dir=Path(sys.argv[1]))
    supervisor = Supervisor(settings, configured=Configured(os.environ), apis=2, command_line=dummy_command)
    sys.exit(asyncio.run(supervisor.run()))

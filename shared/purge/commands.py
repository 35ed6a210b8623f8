"""What `mini-chat purge` does; `shared.purge.command_line` tells how it is called."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import Final

from shared.clock import SystemClock
from shared.console import EXIT_FAILURE, EXIT_OK, fail, write_json, write_line, write_table
from shared.db.command import run_on_database
from shared.purge.purge import Purge
from shared.settings import ConfigurationError, Settings
from shared.turns.operating import open_operator

_LEFT: Final = {
    "chats": "have come meanwhile; run it again",
    "running_turns": "do not end; see `mini-chat turns list`, then run it again",
    "quota_rows": "of users of whom a turn runs; run it again",
    "failed_provider_files": "could not be deleted and keep their chats (attachments.last_cleanup_error)",
    "dead_cleanups": "of chats became dead letters; `mini-chat outbox list`, replay them",
}
"""What needs somebody; all else that is left is workers' to do."""


def run(settings: Settings, options: argparse.Namespace) -> int:
    """The exit code.

    Raises:
        ConfigurationError: `database.url` or `redis.url` is not set, or nobody can be asked.
    """
    if settings.redis.url is None:
        raise ConfigurationError("redis.url: not set, but what is there must be removed as well")
    if not (options.dry_run or options.yes or sys.stdin.isatty()):
        raise ConfigurationError("purge: give --yes, as there is no terminal to ask at")
    return run_on_database(settings, _run(settings, options))


async def _run(settings: Settings, options: argparse.Namespace) -> int:
    async with open_operator(settings) as operator:
        purge = Purge(operator, SystemClock(), options.tenant, options.user)
        there_is = await purge.count()
        if options.dry_run:
            _write(options, {"there_is": there_is})
            return EXIT_OK
        if not (options.yes or _is_confirmed(options, there_is)):
            return fail("nothing was removed")
        done = await purge.run()
        left = await purge.count()
    _write(options, {"done": done, "left": left})
    needs_somebody = {name: text for name, text in _LEFT.items() if left[name]}
    if not options.json:
        for name, text in needs_somebody.items():
            fail(f"{left[name]} {name.replace('_', ' ')} {text}")
    return EXIT_FAILURE if needs_somebody else EXIT_OK


def _is_confirmed(options: argparse.Namespace, there_is: Mapping[str, int]) -> bool:
    whose = f"tenant {options.tenant}" if options.user is None else f"user {options.user} of tenant {options.tenant}"
    sys.stderr.write(f"This cannot be undone. Of {whose} there are:\n")
    for name, count in there_is.items():
        sys.stderr.write(f"  {name.replace('_', ' '):<24}{count}\n")
    sys.stderr.write("Remove all of it? Type yes: ")
    sys.stderr.flush()
    return sys.stdin.readline().strip() == "yes"


def _write(options: argparse.Namespace, counts: Mapping[str, Mapping[str, int]]) -> None:
    if options.json:
        write_json(counts)
        return
    for title, by_name in counts.items():
        header = (title.replace("_", " ").upper(), "COUNT")
        write_table(header, [(name.replace("_", " "), str(count)) for name, count in by_name.items()])
        if title != list(counts)[-1]:
            write_line()

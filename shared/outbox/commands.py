"""What the actions of `mini-chat outbox` do; `shared.outbox.command_line` tells how they are called."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from typing import Any, Final

import asyncpg
import orjson
from sqlalchemy.exc import DBAPIError

from shared.clock import rfc3339
from shared.db.engine import open_database
from shared.outbox.dead_letters import DeadLetters
from shared.outbox.tables import OutboxDeadLetter
from shared.settings import ConfigurationError, Settings

_LONGEST_REASON: Final = 80


def run(settings: Settings, options: argparse.Namespace) -> int:
    """The exit code.

    Raises:
        ConfigurationError: `database.url` is not set.
    """
    if settings.database.url is None:
        raise ConfigurationError(
            "database.url: not set. Set MINI_CHAT_DATABASE__URL; `mini-chat run` writes it to"
            f" {settings.data_dir / 'run.json'} as database_url"
        )
    try:
        return asyncio.run(_run(settings, options))
    except (DBAPIError, asyncpg.PostgresError, OSError, TimeoutError) as error:
        cause = getattr(error, "orig", None) or error
        reason = (str(cause).strip() or type(cause).__name__).splitlines()[0]
        sys.stderr.write(f"mini-chat: the database cannot be used: {reason}\n")
        return 1


async def _run(settings: Settings, options: argparse.Namespace) -> int:
    async with open_database(settings.database) as (_, sessions), sessions.begin() as session:
        letters = DeadLetters(session)
        match options.action:
            case "list":
                return _show(await letters.list_open(queue=options.queue), as_json=options.json)
            case "replay":
                replayed = await letters.replay(ids=options.ids, queue=options.all_of)
                done = {"replayed": replayed.queued, "already_queued": replayed.duplicates}
            case _:
                done = {"resolved": await letters.resolve(ids=options.ids)}
    found = {number for numbers in done.values() for number in numbers}
    return _report(done, missing=sorted(set(options.ids) - found), as_json=options.json)


def _show(letters: Sequence[OutboxDeadLetter], *, as_json: bool) -> int:
    if as_json:
        _write_json([_document(letter) for letter in letters])
    elif not letters:
        sys.stdout.write("No unresolved dead letters.\n")
    else:
        header = ("ID", "QUEUE", "KEY", "ATTEMPTS", "FAILED AT", "REASON")
        _write_table([header, *(_cells(letter) for letter in letters)])
    return 0


def _report(done: dict[str, list[int]], *, missing: list[int], as_json: bool) -> int:
    if as_json:
        _write_json({**done, "not_found": missing})
    else:
        for what, ids in done.items():
            if ids or what != "already_queued":
                sys.stdout.write(f"{what.replace('_', ' ')}: {', '.join(map(str, ids)) or 'none'}\n")
        if missing:
            sys.stderr.write(f"mini-chat: no unresolved dead letter: {', '.join(map(str, missing))}\n")
    return 1 if missing else 0


def _document(letter: OutboxDeadLetter) -> dict[str, Any]:
    return {
        "id": letter.id,
        "queue": letter.queue,
        "partition_key": letter.partition_key,
        "payload_type": letter.payload_type,
        "payload": letter.payload,
        "dedupe_key": letter.dedupe_key,
        "attempts": letter.attempts,
        "reason": letter.reason,
        "created_at": rfc3339(letter.created_at),
        "failed_at": rfc3339(letter.failed_at),
    }


def _cells(letter: OutboxDeadLetter) -> tuple[str, ...]:
    # One line for each letter, whatever an error said, and nothing that a terminal would obey.
    reason = "".join(char if char.isprintable() else " " for char in letter.reason or "")
    if len(reason) > _LONGEST_REASON:
        reason = reason[: _LONGEST_REASON - 1] + "…"
    failed_at = letter.failed_at.strftime("%Y-%m-%d %H:%M:%SZ")
    return str(letter.id), letter.queue, letter.partition_key, str(letter.attempts), failed_at, reason


def _write_table(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        sys.stdout.write(line.rstrip() + "\n")


def _write_json(value: object) -> None:
    sys.stdout.write(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode() + "\n")

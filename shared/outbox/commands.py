"""What the actions of `mini-chat outbox` do; `shared.outbox.command_line` tells how they are called."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, Final

from shared.clock import rfc3339
from shared.console import (
    EXIT_FAILURE,
    EXIT_OK,
    fail,
    in_one_line,
    write_json,
    write_line,
    write_table,
)
from shared.db.command import run_on_database
from shared.db.engine import open_database
from shared.outbox.dead_letters import DeadLetters
from shared.outbox.messages import QUEUES
from shared.outbox.tables import OutboxDeadLetter
from shared.settings import ConfigurationError, Settings

_LONGEST_REASON: Final = 80


def run(settings: Settings, options: argparse.Namespace) -> int:
    """The exit code.

    Raises:
        ConfigurationError: `database.url` is not set, or there is no such queue.
    """
    return run_on_database(settings, _run(settings, options))


async def _run(settings: Settings, options: argparse.Namespace) -> int:
    async with open_database(settings.database) as (_, sessions), sessions.begin() as session:
        letters = DeadLetters(session)
        match options.action:
            case "list":
                found = await letters.list_open(queue=options.queue)
                _require_queue(options.queue, is_used=bool(found))
                return _show(found, as_json=options.json)
            case "replay":
                replayed = await letters.replay(ids=options.ids, queue=options.all_of)
                _require_queue(options.all_of, is_used=bool(replayed.queued or replayed.duplicates))
                done = {"replayed": replayed.queued, "already_queued": replayed.duplicates}
            case _:
                done = {"resolved": await letters.resolve(ids=options.ids)}
    handled = {number for numbers in done.values() for number in numbers}
    return _report(done, missing=sorted(set(options.ids) - handled), as_json=options.json)


def _require_queue(name: str | None, *, is_used: bool) -> None:
    """Of a name with a slip in it "none" would be no answer. A newer release may use queues that we do not know.

    Raises:
        ConfigurationError: there is no such queue.
    """
    if name is not None and name not in QUEUES and not is_used:
        raise ConfigurationError(f"there is no queue {in_one_line(name)}; there are {', '.join(QUEUES)}")


def _show(letters: Sequence[OutboxDeadLetter], *, as_json: bool) -> int:
    if as_json:
        write_json([_document(letter) for letter in letters])
    elif not letters:
        write_line("No unresolved dead letters.")
    else:
        write_table(("ID", "QUEUE", "KEY", "ATTEMPTS", "FAILED AT", "REASON"), [_cells(letter) for letter in letters])
    return EXIT_OK


def _report(done: dict[str, list[int]], *, missing: list[int], as_json: bool) -> int:
    if as_json:
        write_json({**done, "not_found": missing})
    else:
        for what, ids in done.items():
            if ids or what != "already_queued":
                write_line(f"{what.replace('_', ' ')}: {', '.join(map(str, ids)) or 'none'}")
        if missing:
            fail(f"no unresolved dead letter: {', '.join(map(str, missing))}")
    return EXIT_FAILURE if missing else EXIT_OK


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
    reason = in_one_line(letter.reason or "", at_most=_LONGEST_REASON)
    failed_at = letter.failed_at.strftime("%Y-%m-%d %H:%M:%SZ")
    return str(letter.id), letter.queue, letter.partition_key, str(letter.attempts), failed_at, reason

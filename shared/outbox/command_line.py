"""`mini-chat outbox`: dead letters on the command line.

    mini-chat outbox list [--queue QUEUE] [--json]
    mini-chat outbox replay ID… | --all-of QUEUE  [--json]
    mini-chat outbox resolve ID…  [--json]

Exit code 0: done, for every id that was named. 1: some id is not that of an unresolved dead letter (the others are
done), or the database failed. 2: wrong usage or configuration.
"""

from __future__ import annotations

import argparse
from typing import Final

_HIGHEST_ID: Final = 2**63 - 1


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    outbox = commands.add_parser("outbox", help="list, replay or resolve messages that could not be delivered")
    actions = outbox.add_subparsers(dest="action", required=True, metavar="action")
    listing = actions.add_parser("list", help="show unresolved dead letters")
    listing.add_argument("--queue", help="of this queue only")
    replay = actions.add_parser("replay", help="have them delivered after all")
    chosen = replay.add_mutually_exclusive_group(required=True)
    chosen.add_argument("ids", nargs="*", type=_id, default=[], metavar="ID", help="of dead letters")
    chosen.add_argument("--all-of", metavar="QUEUE", help="all unresolved ones of this queue")
    resolve = actions.add_parser("resolve", help="put them aside, undelivered")
    resolve.add_argument("ids", nargs="+", type=_id, metavar="ID", help="of dead letters")
    for action in (listing, replay, resolve):
        action.add_argument("--json", action="store_true", help="write JSON, for scripts")


def _id(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 0 < int(text) <= _HIGHEST_ID):
        raise argparse.ArgumentTypeError("not the id of a dead letter")
    return int(text)

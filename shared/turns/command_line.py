"""`mini-chat turns`: turns on the command line.

    mini-chat turns list [--state STATE] [--tenant T] [--chat C] [--limit N] [--json]
    mini-chat turns show ID | CHAT/REQUEST  [--content] [--json]
    mini-chat turns cancel ID…  [--json]
    mini-chat turns hand-back ID…  [--json]

Exit code 0: done, for every turn that was named; a turn that has ended already needs nothing done. 1: some turn does
not exist or was left as it is (the others are done), or a server failed. 2: wrong usage or configuration.
"""

from __future__ import annotations

import argparse
from typing import Final
from uuid import UUID

STATES: Final = ("running", "queued", "stuck", "completed", "failed", "cancelled", "all")

_HAND_BACK: Final = """
Releases the lease of a turn, so that another worker takes it and generates the answer anew; clients see a restart. The
worker that holds the turn is fenced off first: it can write nothing more of it. If it is dead or hangs, that is all. If
it is alive and well, it breaks off its call to the provider within a third of turns.lease_secs; what the provider
charges for that call is lost, the user is not charged for it. A turn that was sent with on_worker_loss "fail" and of
which something was shown is left alone, as it would fail: cancel it instead. A turn that no worker holds is put into
the queue again, unless it waits there.
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    turns = commands.add_parser("turns", help="list, show, cancel or hand back turns")
    actions = turns.add_subparsers(dest="action", required=True, metavar="action")
    listing = actions.add_parser("list", help="running turns, oldest first, or others, newest first")
    listing.add_argument(
        "--state",
        choices=STATES,
        default="running",
        help="running: all that have not ended (the default), queued: those that no worker holds,"
        " stuck: those whose worker does not move, and those older than turns.max_age_secs",
    )
    listing.add_argument("--tenant", type=UUID, metavar="UUID", help="of this tenant only")
    listing.add_argument("--chat", type=UUID, metavar="UUID", help="of this chat only")
    listing.add_argument("--limit", type=_count, default=50, metavar="N", help="at most so many (50)")
    show = actions.add_parser("show", help="the history of one turn: attempts, events, settlement, messages")
    show.add_argument("turn", type=_turn, metavar="ID|CHAT/REQUEST")
    show.add_argument("--content", action="store_true", help="with what was said; never by default")
    cancel = actions.add_parser("cancel", help="stop turns, as their users could; the text so far is kept")
    hand_back = actions.add_parser("hand-back", help="have another worker start them over", description=_HAND_BACK)
    for action in (cancel, hand_back):
        action.add_argument("ids", nargs="+", type=UUID, metavar="ID", help="of turns")
    for action in (listing, show, cancel, hand_back):
        action.add_argument("--json", action="store_true", help="write JSON, for scripts")


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError("must be a number, 1 or more")
    return int(text)


def _turn(text: str) -> tuple[UUID, ...]:
    """The id of a turn, or those of its chat and request."""
    try:
        ids = tuple(UUID(part) for part in text.split("/"))
    except ValueError:
        ids = ()
    if not 1 <= len(ids) <= 2:
        raise argparse.ArgumentTypeError("neither an id nor CHAT/REQUEST")
    return ids

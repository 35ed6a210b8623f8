"""`mini-chat purge`: removes what belongs to a tenant, or to a user of it.

    mini-chat purge --tenant UUID [--user UUID] [--dry-run] [--yes] [--json]

Exit code 0: done, though a worker may still have to delete rows and files. 1: something is left that needs another run
or an operator, nobody said yes, or a server failed. 2: wrong usage or configuration.
"""

from __future__ import annotations

import argparse
from uuid import UUID

_WHAT = """
Deletes the chats as their users could (running turns are stopped, files at the provider are handed to the cleanup),
the quota rows, the reactions and the event logs. The rows of the chats go with the next hourly pass of a worker, as
soon as nothing of them is left at the provider, whatever retention.chat_grace_days says. Usage and audit events that
are not delivered yet stay until they are. Can be run again at any time, and goes on where it was; what is sent
meanwhile needs another run, so let nobody of the tenant in any more.
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    purge = commands.add_parser("purge", help="remove all that belongs to a tenant or a user", description=_WHAT)
    purge.add_argument("--tenant", type=UUID, required=True, metavar="UUID", help="whose data; all of it, or")
    purge.add_argument("--user", type=UUID, metavar="UUID", help="that of one user of the tenant")
    purge.add_argument("--dry-run", action="store_true", help="only say what there is")
    purge.add_argument("--yes", action="store_true", help="do not ask")
    purge.add_argument("--json", action="store_true", help="write JSON, for scripts")

"""`mini-chat doctor`: what is wrong with a configuration and a running deployment, and what to change.

    mini-chat doctor [--url URL] [--token TOKEN | env:NAME | file:PATH] [--silence SECS] [--strict] [--json]

Without `--url` it looks at the configuration, PostgreSQL, Valkey or Redis, the providers, and the work that waits. With
it, also at the API behind that URL and at every proxy on the way there. Nothing is changed and no call is paid for.

Exit code 0: nothing failed; there may be warnings. 1: something failed, or with `--strict` was warned of. 2: wrong
usage, or a configuration that cannot be used.
"""

from __future__ import annotations

import argparse
from urllib.parse import urlsplit


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    doctor = commands.add_parser("doctor", help="check a configuration and a running deployment")
    doctor.add_argument("--url", type=_url, help="where clients reach the API, without `prefix`; checks the way there")
    doctor.add_argument("--token", help="of any user, to see whether it is accepted; or env:NAME, or file:PATH")
    doctor.add_argument(
        "--silence",
        type=_secs,
        metavar="SECS",
        help="how long a stream must be allowed to say nothing (streaming.sse_ping_interval_seconds + 2)",
    )
    doctor.add_argument("--strict", action="store_true", help="let warnings count as failures")
    doctor.add_argument("--json", action="store_true", help="write JSON, for scripts")


def _url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
        raise argparse.ArgumentTypeError("must be http:// or https://, a host, and perhaps a path")
    return text.rstrip("/")


def _secs(text: str) -> int:
    seconds = int(text)
    if not 0 <= seconds <= 70:
        raise argparse.ArgumentTypeError("must be between 0 and 70")
    return seconds

"""`python -m tests.bench`: measure the product on this machine. Starts its own engines and processes, on loopback."""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

from tests.bench import conversation, growth, overload, profile, queue, relay, stop, uploads, whole_path, worker

BENCHES: dict[str, Callable[..., Coroutine[Any, Any, None]]] = {
    "queue": queue.bench,
    "relay": relay.bench,
    "worker": worker.bench,
    "whole_path": whole_path.bench,
    "stop": stop.bench,
    "uploads": uploads.bench,
    "overload": overload.bench,
    "growth": growth.bench,
    "conversation": conversation.bench,
    "profile": profile.bench,
}

NOT_QUICK = ("uploads", "overload")
"""Run by `--quick` only if they are named: it must not take long."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--repeats", type=int, help="of each measurement (3, or 1 with --quick)")
    parser.add_argument("--quick", action="store_true", help="less of everything, in under 3 minutes")
    parser.add_argument("--only", help=f"some of {', '.join(BENCHES)}")
    options = parser.parse_args()
    repeats = options.repeats or (1 if options.quick else 3)
    names = [name for name in BENCHES if not (options.quick and name in NOT_QUICK)]
    for name in options.only.split(",") if options.only else names:
        began = time.monotonic()
        asyncio.run(BENCHES[name](repeats=repeats, quick=options.quick))
        print(f"\n{name} took {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()

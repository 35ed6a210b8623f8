"""`python -m tests.chaos --turns 1000 --seed 7`: a long run. Starts its own engines and processes, on loopback."""

from __future__ import annotations

import argparse
import asyncio
import random
import sys

from tests.chaos.driver import run_chaos


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--turns", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    parser.add_argument("--clients", type=int, default=24)
    parser.add_argument("--faults", type=int, default=0, help="0: one for every eight turns")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    report = asyncio.run(
        run_chaos(
            seed=options.seed,
            turns=options.turns,
            clients=options.clients,
            faults=options.faults or options.turns // 8,
        )
    )
    print(report)
    for complaint in report.verdict.complaints:
        print(complaint)
    return 1 if report.verdict.complaints else 0


if __name__ == "__main__":
    sys.exit(main())

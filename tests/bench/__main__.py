"""`python -m tests.bench`: measure the product on this machine. Starts its own engines and processes, on loopback."""

from __future__ import annotations

import argparse
import asyncio

from shared.db.migrate import migrate
from shared.settings import DatabaseSettings, Settings
from tests.bench import stop, whole_path
from tests.support.deployment import deployment
from tests.support.engines import TestEngines


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--repeats", type=int, default=3, help="of each measurement (3)")
    options = parser.parse_args()
    with TestEngines() as engines:
        database = DatabaseSettings.model_validate({"url": engines.database_url})
        migrate(Settings(database=database))
        with deployment(database_url=engines.database_url, valkey_url=engines.redis_url, apis=2, workers=1) as product:
            asyncio.run(whole_path.bench(product, repeats=options.repeats))
            asyncio.run(stop.bench(product, repeats=options.repeats))


if __name__ == "__main__":
    main()

"""A program that starts both engines, says so, and waits to be killed.

Usage: start_engines.py <data_dir> tethered|loose
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from shared.embedded.postgres import EmbeddedPostgres
from shared.embedded.valkey import EmbeddedValkey

if __name__ == "__main__":
    folder, tethered = Path(sys.argv[1]), sys.argv[2] == "tethered"
    postgres = EmbeddedPostgres(folder, durable=False, tethered=tethered)
    valkey = EmbeddedValkey(folder, tethered=tethered)
    postgres.start()
    valkey.start()
    sys.stdout.write(f"{postgres.pid} {valkey.pid}\n")
    sys.stdout.flush()
    signal.pause()

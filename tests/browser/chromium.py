"""The browser of the tests: Chromium as the system has it, since a pinned build cannot be had everywhere."""

from __future__ import annotations

import shutil
from typing import Final

NAMES: Final = ("chromium", "chromium-browser", "google-chrome")

ARGUMENTS: Final = [
    "--no-sandbox",  # as root there is no other way
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP plain.test 127.0.0.1",  # another host, without TLS
]


def find_chromium() -> str:
    """
    Raises:
        AssertionError: none is installed. A test without a browser has not passed, so it is not skipped.
    """
    for name in NAMES:
        path = shutil.which(name)
        if path is not None:
            return path
    raise AssertionError(f"no browser: install Chromium (Debian: apt-get install chromium); looked for {NAMES}")

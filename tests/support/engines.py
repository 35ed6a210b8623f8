"""A real PostgreSQL and a real Valkey for tests: fast, forgetful, gone afterwards."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from shared.embedded.postgres import EmbeddedPostgres
from shared.embedded.valkey import EmbeddedValkey


@contextmanager
def temporary_data_dir() -> Iterator[Path]:
    """A folder that the servers' user can reach, which pytest's own are not when root runs the tests."""
    folder = Path(tempfile.mkdtemp(prefix="mini-chat-test-"))
    if os.geteuid() == 0:
        folder.chmod(0o711)
    try:
        yield folder / "data"
    finally:
        shutil.rmtree(folder)


class TestEngines:
    """Both engines in a temporary folder, as a context manager.

    They end with the test process, however that ends. Valkey keeps nothing on disk unless `persistence` is set;
    `valkey.restart(wipe=True)` loses everything, `kill()` and `start()` of either act out a crash.
    """

    __test__ = False

    def __init__(self, *, persistence: bool = False) -> None:
        self._folder = temporary_data_dir()
        self._persistence = persistence

    @property
    def database_url(self) -> str:
        """Of an empty database; its user may create others."""
        return self.postgres.url

    @property
    def redis_url(self) -> str:
        return self.valkey.url

    def start(self) -> None:
        data_dir = self._folder.__enter__()
        self.postgres = EmbeddedPostgres(data_dir, durable=False)
        self.valkey = EmbeddedValkey(data_dir, persistence=self._persistence)
        try:
            with ThreadPoolExecutor(2) as pool:
                for started in [pool.submit(self.postgres.start), pool.submit(self.valkey.start)]:
                    started.result()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        self.valkey.kill()
        self.postgres.kill()
        self._folder.__exit__(None, None, None)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

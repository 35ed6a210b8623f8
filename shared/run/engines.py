"""The embedded engines of a run: started together, watched, stopped in order."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

from shared.embedded.errors import EngineError
from shared.embedded.server import EmbeddedServer
from shared.run.child import Backoff
from shared.run.output import Output
from shared.settings import ConfigurationError

_WATCH_INTERVAL_SECS = 0.2


class EngineKeeper:
    """Starts an engine again, at the same URL, when it dies."""

    def __init__(self, engine: EmbeddedServer, *, output: Output, on_start: Callable[[], None]) -> None:
        self.engine = engine
        self._output = output
        self._on_start = on_start
        self._backoff = Backoff()
        self._stopping = asyncio.Event()
        self._began = 0.0

    async def start(self) -> None:
        """
        Raises:
            ConfigurationError: its folder cannot be used.
            EngineError: it does not start.
        """
        await asyncio.to_thread(self.engine.start)
        self._began = time.monotonic()

    async def supervise(self) -> None:
        """Keep it running until `release`."""
        while not await self._pause(_WATCH_INTERVAL_SECS):
            if self.engine.is_running:
                continue
            delay = self._backoff.next_delay(lived=time.monotonic() - self._began)
            self._output.say(f"{self.engine.title} ended, starting again in {delay:.1f} s")
            if await self._pause(delay):
                return
            try:
                await self.start()
            except (ConfigurationError, EngineError) as error:
                self._began = time.monotonic()
                self._output.say(str(error))
            else:
                self._on_start()

    def release(self) -> None:
        """End `supervise`; the engine runs on."""
        self._stopping.set()

    async def stop(self) -> None:
        self.release()
        await asyncio.to_thread(self.engine.stop)

    async def _pause(self, seconds: float) -> bool:
        """Wait; whether we were released."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        return self._stopping.is_set()

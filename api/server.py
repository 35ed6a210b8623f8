"""The HTTP server of an API process, and how it goes away.

SIGTERM drains: readiness turns red at once and requests are still taken for `drain.lead_secs`, so that whoever routes
to this replica can stop; then the port is closed, open streams get `RELAY_SECS` to end by themselves, and those that
are left are closed with a `retry:`, so that their clients go to another replica with their cursor. SIGINT, or a second
signal, closes them at once. No terminal event is made up for a turn that has not ended, and no turn is stopped by it.

SIGHUP reloads the catalog.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

import uvicorn
from fastapi import FastAPI

from api.context import ApiContext
from shared.tasks import BackgroundTasks

RELAY_SECS: Final = 10.0
CLOSE_SECS: Final = 5
"""For the last writes of closed streams and of ordinary requests."""
KEEP_ALIVE_SECS: Final = 75
"""Longer than a reverse proxy keeps an idle connection: it must be the one who closes, or it runs into ours."""

logger = logging.getLogger(__name__)


class Server(uvicorn.Server):
    """Ends by itself once it has drained; uvicorn's own would raise the signal again before the lifespan closes."""

    def __init__(self, app: FastAPI, context: ApiContext) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http="httptools",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=KEEP_ALIVE_SECS,
                timeout_graceful_shutdown=int(RELAY_SECS) + CLOSE_SECS,
            )
        )
        self._context = context
        self._tasks = BackgroundTasks()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        loop.add_signal_handler(signal.SIGHUP, self._context.policies.ask_for_reload)
        yield

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 (of uvicorn)
        is_first = not self._context.draining.is_set()
        self._context.draining.set()
        if sig == signal.SIGTERM and is_first:
            logger.info("draining", extra={"streams": len(self._context.followers)})
            self._tasks.spawn(self._drain(), name="drain")
        else:
            self._close()

    async def _drain(self) -> None:
        await asyncio.sleep(self._context.settings.drain.lead_secs)
        self.should_exit = True
        await asyncio.sleep(RELAY_SECS)
        self._close()

    def _close(self) -> None:
        self.should_exit = True
        self._context.followers.close_all()

    async def aclose(self) -> None:
        await self._tasks.aclose()

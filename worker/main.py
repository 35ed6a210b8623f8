"""The worker process: `mini-chat worker`.

SIGTERM and SIGINT drain it: it starts no further turn, lets those under way end within `worker.drain_secs`, hands the
rest back to the queue and exits. A second signal hands back at once. SIGHUP reloads the catalog.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from contextlib import suppress
from datetime import timedelta
from functools import partial

import uvloop

from shared.attachments.gauges import measure_attachments
from shared.garbage import forget_start_up
from shared.logs import configure_logging
from shared.outbox.gauges import measure_outbox
from shared.periodic import every
from shared.settings import Settings
from shared.turns.gauges import GAUGE_INTERVAL, measure_turns
from shared.valkey.eviction import warn_of_eviction
from worker.attachments.stuck import STUCK_INTERVAL
from worker.lifespan import WorkerContext, open_worker
from worker.retention import PURGE_INTERVAL
from worker.turns.absence import ABSENCE_INTERVAL
from worker.turns.stop_signals import hear_stop_signals
from worker.turns.sweeper import SWEEP_INTERVAL

logger = logging.getLogger(__name__)

HAND_BACK_SECS = 4.0
"""How long handing back may take; what is not handed back by then is found by its expired lease."""


def run(settings: Settings) -> None:
    """Serve jobs until a signal. Raises ConfigurationError if the process cannot start as configured."""
    configure_logging(settings.log.level, "worker")
    uvloop.run(_run(settings))


async def _run(settings: Settings) -> None:
    async with open_worker(settings) as context:
        drain = Drain(context)
        drain.listen()
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, context.policies.ask_for_reload)
        periodic = [
            every(context.leases.lease / 3, context.leases.renew, name="lease renewal"),
            every(SWEEP_INTERVAL, context.sweeper.sweep, name="sweep"),
            every(ABSENCE_INTERVAL, context.absence.look, name="absence watch"),
            hear_stop_signals(context.signal_valkey, context.leases),
            warn_of_eviction(context.valkey),
            context.policies.keep_current(),
            context.outbox.run(),
            every(GAUGE_INTERVAL, partial(measure_turns, context.sessions, context.metrics), name="gauges"),
            every(GAUGE_INTERVAL, partial(measure_outbox, context.sessions, context.metrics), name="outbox gauges"),
            every(GAUGE_INTERVAL, partial(measure_attachments, context.sessions, context.metrics), name="file gauges"),
            every(PURGE_INTERVAL, context.purge.run, name="purge"),
            every(STUCK_INTERVAL, context.stuck_uploads.run, name="stuck uploads"),
        ]
        cleanup = settings.cleanup_worker
        if cleanup.enabled:
            interval = timedelta(seconds=cleanup.poll_interval_secs)
            periodic.append(every(interval, context.reconciliation.run, name="cleanup reconciliation"))
        watchdog = settings.orphan_watchdog
        if watchdog.enabled:
            interval = timedelta(seconds=watchdog.scan_interval_secs)
            periodic.append(every(interval, context.watchdog.scan, name="watchdog"))
        forget_start_up()
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(work) for work in periodic]
            running.append(tasks.create_task(context.jobs.main(), name="jobs"))
            logger.info("worker started", extra={"lease_owner": context.leases.owner})
            await drain.requested.wait()
            await drain.run()
            for task in running:
                task.cancel()
    logger.info("worker stopped")


class Drain:
    """The way out of a worker: from the first signal to the last turn handed back."""

    def __init__(self, context: WorkerContext) -> None:
        self._context = context
        self.requested = context.draining
        self._hurried = asyncio.Event()

    def listen(self) -> None:
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self._on_signal)

    def _on_signal(self) -> None:
        if self.requested.is_set():
            self._hurried.set()
        self.requested.set()

    async def run(self) -> None:
        jobs = self._context.jobs
        jobs.stop_picking()
        logger.info("draining", extra={"turns_held": len(self._context.leases.held)})
        await self._wait_for_turns(self._context.settings.worker.drain_secs)
        self._context.leases.hand_back_all()
        if jobs.tasks:
            await asyncio.wait(list(jobs.tasks.values()), timeout=HAND_BACK_SECS)
        for task in list(jobs.tasks.values()):
            task.cancel()

    async def _wait_for_turns(self, seconds: float) -> None:
        """Return when no job is left, the time is up, or a second signal came."""
        hurried = asyncio.ensure_future(self._hurried.wait())
        try:
            async with asyncio.timeout(seconds):
                while (tasks := list(self._context.jobs.tasks.values())) and not hurried.done():
                    await asyncio.wait([*tasks, hurried], return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            pass
        finally:
            hurried.cancel()
            with suppress(asyncio.CancelledError):
                await hurried

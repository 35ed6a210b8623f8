"""arq's worker, woken instead of polling, and kept alive when Valkey is not.

What differs from arq's own, and why:

1. Jobs are picked by our script, which moves them out of the queue: arq leaves running jobs in the set it reads, and
   walks them first at every poll.
2. A job comes with its content, and ends with one script: arq asks for the content, counts tries and notes results in
   further round trips. Attempts are counted in the turn's row, and results are in PostgreSQL.
3. A new job wakes an idle worker through a list that it blocks on, by a connection of its own; polling is a fallback.
4. An error of Valkey is logged and tried again. In arq it ends the process.
5. Signals are the process's affair (`worker.main`): a drain hands turns back, which arq knows nothing of.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, cast

from arq.typing import WorkerCoroutine
from arq.worker import Worker, func
from opentelemetry.trace import SpanKind, set_span_in_context

from shared.backoff import backoff
from shared.logs import add_log_fields
from shared.queue.queue import QUEUE_NAME, JobQueue, PickedJob
from shared.settings import Settings
from shared.trace import current_trace_id, received, span, start_span
from shared.valkey.client import REDIS_FAILURE, Valkey
from shared.valkey.keyspace import QUEUE_WAKE

logger = logging.getLogger(__name__)

JobFunction = Callable[..., Coroutine[Any, Any, None]]

PICK_BATCH = 16
"""Jobs taken at once: few enough that a burst spreads over the workers it wakes."""
WAKE_BLOCK_SECS = 2
"""How long one blocking read waits; a worker that fills up meanwhile takes at most one token that others could use."""
JOB_TIMEOUT_MARGIN_SECS = 60
"""Above the oldest possible turn: ending turns is our own business, never the job's time limit's."""


class JobLoop(Worker):
    def __init__(
        self,
        functions: Mapping[str, JobFunction],
        *,
        wake_valkey: Valkey,
        queue: JobQueue,
        settings: Settings,
        ctx: dict[Any, Any],
    ) -> None:
        job_timeout = settings.turns.max_age_secs + JOB_TIMEOUT_MARGIN_SECS
        super().__init__(
            functions=[func(cast("WorkerCoroutine", function), name=name) for name, function in functions.items()],
            queue_name=QUEUE_NAME,
            handle_signals=False,
            max_jobs=settings.worker.max_jobs,
            job_timeout=job_timeout,
            poll_delay=settings.worker.poll_delay_ms / 1000,
            ctx=ctx,
        )
        self._queue = queue
        self._wake_valkey = wake_valkey
        self._in_progress_ms = (job_timeout + 10) * 1000
        self._attention = asyncio.Event()
        self._has_room = asyncio.Event()
        self._has_room.set()

    async def main(self) -> None:
        """Pick and run jobs until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._listen_for_wakes(), name="queue wake-up")
            tasks.create_task(self._pick_for_ever(), name="queue pick")

    def stop_picking(self) -> None:
        """Start no further job; those under way go on."""
        self.allow_pick_jobs = False
        self._has_room.clear()

    async def _pick_for_ever(self) -> None:
        delays = backoff(first=0.1, longest=2.0)
        while True:
            self._attention.clear()
            try:
                if await self._pick():
                    continue
                delays = backoff(first=0.1, longest=2.0)
            except REDIS_FAILURE as error:
                logger.warning("the queue cannot be read, will try again: %r", error)
                await asyncio.sleep(next(delays))
                continue
            try:
                async with asyncio.timeout(self.poll_delay_s):
                    await self._attention.wait()
            except TimeoutError:
                pass

    async def _pick(self) -> bool:
        """Start what is due and fits; True if there may be more."""
        room = self.max_jobs - self.job_counter
        if not self.allow_pick_jobs or room <= 0:
            return False
        wanted = min(room, PICK_BATCH)
        jobs = await self._queue.pick(at_most=wanted, in_progress_ms=self._in_progress_ms)
        for job in jobs:
            self._start(job)
        return len(jobs) == wanted

    def _start(self, job: PickedJob) -> None:
        job_id = job.job_id
        if job_id in self.tasks:
            return  # enqueued a second time while it runs here: one run is enough
        self.job_counter += 1
        if self.job_counter >= self.max_jobs:
            self._has_room.clear()
        task = self.loop.create_task(self._run(job), name=f"job {job_id}")
        self.tasks[job_id] = task
        task.add_done_callback(lambda done: self._ended(job_id, done))

    def _ended(self, job_id: str, task: asyncio.Task[None]) -> None:
        self.job_counter -= 1
        if self.tasks.get(job_id) is task:
            del self.tasks[job_id]
        if self.allow_pick_jobs and not self._has_room.is_set():
            # Only a full worker has left jobs and their wake-ups alone.
            self._has_room.set()
            self._attention.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            # The turn's row is still running: a sweeper finds it.
            logger.error("job %s broke off", job_id, exc_info=error)

    async def _listen_for_wakes(self) -> None:
        """Block on the wake list while there is room for another job; each token says that one waits."""
        delays = backoff(first=0.1, longest=2.0)
        while True:
            await self._has_room.wait()
            try:
                waiting = self._wake_valkey.blpop([QUEUE_WAKE], timeout=WAKE_BLOCK_SECS)
                token = await cast("Awaitable[object]", waiting)
            except REDIS_FAILURE as error:
                logger.warning("the queue's wake-up is out of reach, will try again: %r", error)
                await asyncio.sleep(next(delays))
                continue
            delays = backoff(first=0.1, longest=2.0)
            if token is not None:
                self._attention.set()

    async def _run(self, job: PickedJob) -> None:
        """Run the job's function, and forget the job however that ends: what is left to do is in the turn's row."""
        try:
            name, kwargs = job.read()
            caller = received(kwargs.get("traceparent"))
            waited = start_span("queue", within=caller, began_ns=job.enqueued_ms * 1_000_000)
            waited.end()
            with span(name, within=set_span_in_context(waited), kind=SpanKind.CONSUMER):
                add_log_fields(trace_id=current_trace_id())
                async with asyncio.timeout(self.job_timeout_s):
                    await self.functions[name].coroutine(self.ctx, **kwargs)
        finally:
            # Also when the job is cancelled: the round trip is short and has a time limit.
            await asyncio.shield(self._forget(job.job_id))

    async def _forget(self, job_id: str) -> None:
        try:
            await self._queue.finish(job_id)
        except REDIS_FAILURE as error:
            # Its keys expire, and an enqueue under the same id replaces them.
            logger.warning("job %s ended but its keys remain: %r", job_id, error)

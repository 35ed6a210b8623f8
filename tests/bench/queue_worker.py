"""A worker of the queue bench, in a process of its own: the product's job loop, or arq's worker as it comes.

Its jobs note how long they have waited since they were enqueued, and may stay for a while. Commands arrive as JSON, one
a line; each is answered by one line.
"""

from __future__ import annotations

import array
import asyncio
import resource
import time
from typing import Any

import uvloop
from arq.connections import RedisSettings
from arq.worker import Worker, func

from shared.queue.jobs import RUN_TURN
from shared.queue.queue import JobQueue
from shared.settings import Settings
from shared.valkey.client import open_valkey
from tests.bench.measure import percentile
from tests.bench.relay_client import serve
from worker.job_loop import JobLoop

MAX_JOBS = 4_096
"""Of both: at its default of 10, arq's worker could not hold the jobs that are to run."""


class QueueWorker:
    def __init__(self) -> None:
        self._waits = array.array("q")
        self._task: asyncio.Task[None] | None = None

    async def start(self, *, kind: str, redis_url: str) -> dict[str, Any]:
        run = self._run_ours(redis_url) if kind == "ours" else self._run_arq(redis_url)
        self._task = asyncio.get_running_loop().create_task(run)
        return {}

    async def waits(self) -> dict[str, Any]:
        """Of the jobs that have started since the last call."""
        if self._task is not None and self._task.done():
            self._task.result()
        waits, self._waits = self._waits, array.array("q")
        return {
            "started": len(waits),
            "p50": percentile(waits, 50) / 1e6 if waits else 0.0,
            "p99": percentile(waits, 99) / 1e6 if waits else 0.0,
        }

    async def started(self) -> dict[str, Any]:
        return {"started": len(self._waits)}

    async def cpu(self) -> dict[str, Any]:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return {"secs": usage.ru_utime + usage.ru_stime}

    async def _job(self, sent_ns: int, secs: float) -> None:
        self._waits.append(time.time_ns() - sent_ns)
        await asyncio.sleep(secs)

    async def _run_ours(self, redis_url: str) -> None:
        settings = Settings.model_validate({"redis": {"url": redis_url}, "worker": {"max_jobs": MAX_JOBS}})

        async def run(_ctx: object, *, turn_id: str, attempt: int, traceparent: str, reason: str) -> None:
            sent_ns, _, secs = traceparent.partition(" ")
            await self._job(int(sent_ns), float(secs))

        async with open_valkey(settings.redis) as valkey, open_valkey(settings.redis) as wake_valkey:
            queue = JobQueue(valkey, settings)
            await JobLoop({RUN_TURN: run}, wake_valkey=wake_valkey, queue=queue, settings=settings, ctx={}).main()

    async def _run_arq(self, redis_url: str) -> None:
        async def run(_ctx: object, sent_ns: int, secs: float) -> None:
            await self._job(sent_ns, secs)

        settings = RedisSettings.from_dsn(redis_url)
        worker = Worker(
            [func(run, name="job")],  # type: ignore[arg-type]
            redis_settings=settings,
            handle_signals=False,
            max_jobs=MAX_JOBS,
        )
        await worker.async_run()


async def main() -> None:
    worker = QueueWorker()
    await serve({"start": worker.start, "waits": worker.waits, "started": worker.started, "cpu": worker.cpu})


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())

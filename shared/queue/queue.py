"""The queue port: everything the product asks of arq's queue, in arq's key format, by our own atomic scripts.

A waiting job is a member of arq's sorted set. A worker that takes it moves it to `mc:queue:running` at once: in arq's
own scheme running jobs stay in the set, fill the window that workers read and so hide waiting jobs from the fleet. Each
new job leaves one token in a list on which idle workers block, so that none of them polls to find it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import orjson
from arq.constants import default_queue_name, in_progress_key_prefix, job_key_prefix, retry_key_prefix
from arq.jobs import SerializationError, deserialize_job_raw, serialize_job
from arq.utils import timestamp_ms

from shared.queue.jobs import Job
from shared.settings import Settings
from shared.valkey.client import Valkey
from shared.valkey.keyspace import QUEUE_ADMITTED, QUEUE_RUNNING, QUEUE_WAKE
from shared.valkey.scripts import Script, ScriptCall, run_scripts

QUEUE_NAME = default_queue_name

_ENQUEUE = Script("enqueue")
_PICK_JOBS = Script("pick_jobs")
_FINISH_JOB = Script("finish_job")

# arq also serializes the exceptions of jobs that fail before they start.
serialize: Callable[[dict[str, Any]], bytes] = partial(orjson.dumps, default=repr)
deserialize: Callable[[bytes], dict[str, Any]] = orjson.loads


class PickedJob(NamedTuple):
    """A job that is this worker's to run: its id, and its content unless that has expired."""

    job_id: str
    content: bytes | None

    def read(self) -> tuple[str, dict[str, Any]]:
        """The name of its function, and the keyword arguments.

        Raises:
            arq.jobs.SerializationError: there are none that can be read.
        """
        name, _, kwargs, _, _ = deserialize_job_raw(self.content or b"", deserializer=deserialize)
        return name, kwargs

    @property
    def enqueued_ms(self) -> int:
        """When it was enqueued, in epoch milliseconds. Raises as `read` does."""
        return deserialize_job_raw(self.content or b"", deserializer=deserialize)[4]


class JobQueue:
    """Enqueues jobs and hands them to workers. Every method may raise what `REDIS_FAILURE` names."""

    def __init__(self, valkey: Valkey, settings: Settings) -> None:
        self._valkey = valkey
        # A burst must not leave a token per job: one worker's capacity of tokens wakes everybody who can help.
        self._wake_cap = settings.worker.max_jobs
        self._job_life_ms = settings.turns.max_age_secs * 1000

    def enqueueing(self, job: Job, *, place: str = "") -> ScriptCall:
        """The enqueue as a call, so that it can share a round trip.

        Args:
            place: what was kept for the job in `mc:queue:admitted`, and is now taken by itself.
        """
        job_id = job.job_id
        now = timestamp_ms()
        payload = serialize_job(job.name, (), job.to_kwargs(), None, now, serializer=serialize)
        keys = [QUEUE_NAME, *_job_keys(job_id), QUEUE_RUNNING, QUEUE_WAKE, QUEUE_ADMITTED]
        return _ENQUEUE.call(keys, [job_id, payload, now, self._job_life_ms, self._wake_cap, place])

    async def enqueue(self, job: Job) -> bool:
        """Add the job; False if it waits already. Replaces whatever a dead worker left under the same id."""
        [added] = await run_scripts(self._valkey, [self.enqueueing(job)])
        return bool(added)

    async def traceparent_of(self, job: Job) -> str | None:
        """The trace of a job of this id that waits, runs, or was left behind by a worker that died; None if unknown."""
        content = await self._valkey.get(job_key_prefix + job.job_id)
        try:
            _, kwargs = PickedJob(job.job_id, content).read()
        except SerializationError:
            return None
        return kwargs.get("traceparent")

    async def pick(self, *, at_most: int, in_progress_ms: int) -> list[PickedJob]:
        """Take up to `at_most` due jobs for this worker, oldest first."""
        answer = await _PICK_JOBS(
            self._valkey,
            [QUEUE_NAME, QUEUE_RUNNING],
            [timestamp_ms(), at_most, in_progress_ms, in_progress_key_prefix, job_key_prefix],
        )
        return [PickedJob(job_id.decode(), content) for job_id, content in answer]

    async def finish(self, job_id: str) -> None:
        """Forget a job that has ended."""
        await _FINISH_JOB(self._valkey, [QUEUE_NAME, QUEUE_RUNNING, *_job_keys(job_id)], [job_id])


def _job_keys(job_id: str) -> list[str]:
    return [job_key_prefix + job_id, in_progress_key_prefix + job_id, retry_key_prefix + job_id]

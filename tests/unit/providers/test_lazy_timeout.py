"""The lazy timeout behaves as asyncio.timeout would, wait after wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from worker.providers.lazy_timeout import LazyTimeout


@pytest.fixture
async def timeout() -> AsyncIterator[LazyTimeout]:
    lazy = LazyTimeout()
    yield lazy
    lazy.close()


def after(seconds: float) -> float:
    return asyncio.get_running_loop().time() + seconds


async def test_a_wait_that_is_too_long_times_out(timeout: LazyTimeout) -> None:
    for _ in range(2):
        with pytest.raises(TimeoutError), timeout.until(after(0.02)):
            await asyncio.Event().wait()
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_many_short_waits_outlast_one_limit(timeout: LazyTimeout) -> None:
    """The limit is each wait's own."""
    for _ in range(6):
        with timeout.until(after(0.5)):
            await asyncio.sleep(0.1)


async def test_time_between_waits_does_not_count(timeout: LazyTimeout) -> None:
    with timeout.until(after(0.02)):
        await asyncio.sleep(0)
    await asyncio.sleep(0.04)
    with timeout.until(after(10)):
        await asyncio.sleep(0)


async def test_a_nearer_limit_replaces_a_later_one(timeout: LazyTimeout) -> None:
    with timeout.until(after(60)):
        await asyncio.sleep(0)
    with pytest.raises(TimeoutError), timeout.until(after(0.02)):
        await asyncio.Event().wait()


async def test_a_later_limit_replaces_a_nearer_one(timeout: LazyTimeout) -> None:
    with timeout.until(after(0.02)):
        await asyncio.sleep(0)
    with timeout.until(after(60)):
        await asyncio.sleep(0.05)


async def test_cancellation_from_outside_stays_a_cancellation(timeout: LazyTimeout) -> None:
    entered = asyncio.Event()

    async def wait() -> None:
        with timeout.until(after(60)):
            entered.set()
            await asyncio.Event().wait()

    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(wait())
        await entered.wait()
        task.cancel()
    assert task.cancelled()


async def test_cancellation_wins_over_an_expiry_at_the_same_time(timeout: LazyTimeout) -> None:
    entered = asyncio.Event()

    async def wait() -> None:
        with timeout.until(after(0)):
            entered.set()
            await asyncio.Event().wait()

    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(wait())
        await entered.wait()
        task.cancel()
    assert task.cancelled()


async def test_other_errors_pass(timeout: LazyTimeout) -> None:
    with pytest.raises(LookupError), timeout.until(after(60)):
        raise LookupError

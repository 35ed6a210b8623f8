"""Background tasks: owned, named, never lost."""

from __future__ import annotations

import asyncio

import pytest

from shared.tasks import BackgroundTasks


async def test_a_finished_task_is_forgotten() -> None:
    tasks = BackgroundTasks()
    task = tasks.spawn(asyncio.sleep(0, "done"), name="short")
    assert task.get_name() == "short"
    assert await task == "done"
    await asyncio.sleep(0)
    assert len(tasks) == 0


async def test_a_failure_is_logged_with_its_name(caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        raise ValueError("broken")

    tasks = BackgroundTasks()
    await asyncio.wait([tasks.spawn(fail(), name="unlucky")])
    await asyncio.sleep(0)
    assert "unlucky" in caplog.text
    assert "broken" in caplog.text


async def test_closing_cancels_and_waits_for_tasks_and_their_tasks() -> None:
    tasks = BackgroundTasks()
    ended: list[str] = []

    async def linger(name: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append(name)
            if name == "first":
                tasks.spawn(linger("second"), name="second")

    tasks.spawn(linger("first"), name="first")
    await asyncio.sleep(0)
    await tasks.aclose()
    assert ended[0] == "first"
    assert len(tasks) == 0


async def test_closing_nothing_is_fine() -> None:
    await BackgroundTasks().aclose()

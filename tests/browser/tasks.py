"""How long a page keeps its main thread to itself, task by task.

The Performance API reports tasks that took more than 50 ms by the clock on the wall. On a machine with other work that
is also every short task whose thread had to wait for a core. A trace of the browser gives the time of the thread's own
clock beside it, which is what the page itself takes, and what it can be held to.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from playwright.async_api import Page

CATEGORIES: Final = ("toplevel", "devtools.timeline", "disabled-by-default-devtools.timeline")
TASK: Final = "RunTask"


@dataclass(frozen=True)
class Task:
    """One run of the event loop, in milliseconds."""

    wall: float
    cpu: float
    inside: tuple[str, ...] = ()
    """What took longest in it."""


@dataclass
class Tasks:
    """Filled when the block ends."""

    all: list[Task] = field(default_factory=list)

    @property
    def longest(self) -> Task:
        """By the thread's own clock."""
        return max(self.all, key=lambda task: task.cpu)


@asynccontextmanager
async def traced_tasks(page: Page) -> AsyncIterator[Tasks]:
    """The tasks of the main thread of `page` for the length of the block."""
    session = await page.context.new_cdp_session(page)
    events: list[dict[str, Any]] = []
    is_complete = asyncio.Event()
    session.on("Tracing.dataCollected", lambda data: events.extend(data["value"]))
    session.on("Tracing.tracingComplete", lambda _: is_complete.set())
    config = {"includedCategories": CATEGORIES, "excludedCategories": ["*"], "recordMode": "recordAsMuchAsPossible"}
    await session.send("Tracing.start", {"traceConfig": config, "transferMode": "ReportEvents"})
    tasks = Tasks()
    try:
        yield tasks
    finally:
        await session.send("Tracing.end")
        await is_complete.wait()
        tasks.all = _tasks_of(events)
        await session.detach()


def _tasks_of(events: list[dict[str, Any]]) -> list[Task]:
    processes = {
        frame["processId"]
        for event in events
        if event["name"] == "TracingStartedInBrowser"
        for frame in event["args"]["data"]["frames"]
    }
    threads = {
        (event["pid"], event["tid"])
        for event in events
        if event["name"] == "thread_name" and event["args"]["name"] == "CrRendererMain" and event["pid"] in processes
    }
    timed = [e for e in events if (e["pid"], e["tid"]) in threads and e["ph"] == "X" and "tdur" in e]
    timed.sort(key=lambda event: event["ts"])
    tasks: list[Task] = []
    for index, event in enumerate(timed):
        if event["name"] != TASK:
            continue
        end = event["ts"] + event["dur"]
        within = []
        for other in timed[index + 1 :]:
            if other["ts"] >= end:
                break
            within.append(other)
        within.sort(key=lambda other: -other["tdur"])
        inside = tuple(f"{other['name']} {other['tdur'] / 1000:.0f}" for other in within[:6])
        tasks.append(Task(event["dur"] / 1000, event["tdur"] / 1000, inside))
    return tasks

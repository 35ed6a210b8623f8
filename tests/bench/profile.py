"""Where the time of API and worker goes under load, by py-spy's samples, grouped by whose code is running.

`self` is the innermost frame's owner; a C function counts for the Python that called it.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.bench.measure import report
from tests.bench.stage import Stage, script, stage

RATE = 15
SECONDS = 10
SHOWN = 12
GROUPS = (
    ("SQLAlchemy", "sqlalchemy"),
    ("asyncpg", "asyncpg"),
    ("redis-py", "redis"),
    ("arq", "arq"),
    ("FastAPI, Starlette", "fastapi"),
    ("FastAPI, Starlette", "starlette"),
    ("pydantic", "pydantic"),
    ("uvicorn", "uvicorn"),
    ("openai SDK, HTTP client", "openai"),
    ("openai SDK, HTTP client", "httpx"),
    ("openai SDK, HTTP client", "aiohttp"),
    ("logging", "logging"),
    ("event loop", "asyncio"),
    ("event loop", "uvloop"),
)


async def bench(*, repeats: int, quick: bool) -> None:
    seconds = 5 if quick else SECONDS
    async with stage(apis=1, workers=1) as it:
        await it.run_turns(await it.make_chats(30), content=script(tokens=30, rate=30), rate=RATE)
        load = asyncio.create_task(_load(it, seconds))  # noqa: TID251 (awaited below)
        await asyncio.sleep(1.0)
        processes = {"API": it.product.apis[0], "worker": it.product.workers[0]}
        stacks = await asyncio.gather(*(_record(process.popen.pid, seconds) for process in processes.values()))
        await load
    for name, found in zip(processes, stacks, strict=True):
        _report(name, found)


async def _load(it: Stage, seconds: int) -> None:
    chats = await it.make_chats(RATE * (seconds + 3))
    await it.run_turns(chats, content=script(tokens=30, rate=30), rate=RATE)


async def _record(pid: int, seconds: int) -> Counter[tuple[str, ...]]:
    """How often each stack was seen, outermost frame first."""
    spy = Path(sys.executable).with_name("py-spy")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "stacks"
        command = [str(spy), "record", "-f", "raw", "-r", "200", "-d", str(seconds), "-o", str(path), "--pid", str(pid)]
        await asyncio.to_thread(lambda: subprocess.run(command, check=True, capture_output=True))
        lines = path.read_text().splitlines()
    stacks: Counter[tuple[str, ...]] = Counter()
    for line in lines:
        stack, _, count = line.rpartition(" ")
        stacks[tuple(stack.split(";"))] += int(count)
    return stacks


def _report(name: str, stacks: Counter[tuple[str, ...]]) -> None:
    total = stacks.total()
    owners: Counter[str] = Counter()
    functions: Counter[str] = Counter()
    for stack, count in stacks.items():
        owners[_owner(stack[-1])] += count
        for frame in {frame for frame in stack if _owner(frame) == "mini-chat"}:
            functions[frame.rpartition(":")[0] or frame] += count
    report(
        f"profile_{name.lower()}",
        f"{name}: whose code runs, {total} samples",
        [{"owner": owner, "self %": round(count / total * 100, 1)} for owner, count in owners.most_common()],
    )
    report(
        f"profile_{name.lower()}_functions",
        f"{name}: the product's functions, with all that they call",
        [
            {"function": function, "total %": round(count / total * 100, 1)}
            for function, count in functions.most_common(SHOWN)
        ],
    )


def _owner(frame: str) -> str:
    place = frame.partition("(")[2]
    if place.startswith(("api/", "worker/", "shared/")):
        return "mini-chat"
    return next((group for group, package in GROUPS if f"{package}/" in place or place.startswith(package)), "other")

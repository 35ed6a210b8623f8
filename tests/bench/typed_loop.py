"""What the worker is measured against: the SDK's typed event loop, and one awaited XADD per delta.

It streams N answers of the fast provider at once into N Redis streams, the way most people write it, on uvloop and
with the SDK's default HTTP client. Commands arrive as JSON, one a line; each is answered by one line.
"""

from __future__ import annotations

import array
import asyncio
import resource
import time
from typing import Any

import uvloop
from openai import AsyncOpenAI
from redis.asyncio import Redis

from tests.bench.measure import percentile
from tests.bench.relay_client import serve


class Loop:
    def __init__(self) -> None:
        self._latencies = array.array("q")
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, *, redis_url: str, provider_port: int, streams: int, content: str) -> dict[str, Any]:
        self._openai = AsyncOpenAI(api_key="none", base_url=f"http://127.0.0.1:{provider_port}/v1", max_retries=0)
        self._redis: Any = Redis.from_url(redis_url)
        self._tasks = [asyncio.create_task(self._stream(number, content)) for number in range(streams)]  # noqa: TID251
        return {}

    async def window(self, *, secs: float) -> dict[str, Any]:
        """What was streamed in the next `secs` seconds."""
        self._latencies = array.array("q")
        before = _cpu_secs()
        await asyncio.sleep(secs)
        cpu, latencies = _cpu_secs() - before, self._latencies
        return {
            "deltas": len(latencies),
            "cpu_secs": cpu,
            "p50": percentile(latencies, 50) / 1e6 if latencies else 0.0,
            "p99": percentile(latencies, 99) / 1e6 if latencies else 0.0,
        }

    async def stop(self) -> dict[str, Any]:
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        await self._openai.close()
        await self._redis.aclose()
        return {}

    async def _stream(self, number: int, content: str) -> None:
        events = await self._openai.responses.create(
            model="bench", input=[{"type": "message", "role": "user", "content": _parts(content)}], stream=True
        )
        async for event in events:
            if event.type == "response.output_text.delta":
                await self._redis.xadd(f"bench:{number}", {"type": "delta", "content": event.delta})
                self._latencies.append(time.time_ns() - int(event.delta[1:20]))


def _parts(text: str) -> Any:
    return [{"type": "input_text", "text": text}]


def _cpu_secs() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def main() -> None:
    loop = Loop()
    await serve({"start": loop.start, "window": loop.window, "stop": loop.stop})


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())

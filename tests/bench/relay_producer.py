"""The producer of the relay bench, in a process of its own: writes logs at a steady rate with the product's scripts.

Events of all streams are spread evenly over their period. Each delta carries the moment of its append, so that whoever
reads it knows how long it was on its way.
"""

from __future__ import annotations

import asyncio
import resource
import sys
import time
from typing import Any
from uuid import UUID

import uvloop
from redis.asyncio.connection import ConnectionPool

from api.turns.subscriber import Subscriber
from shared.events import frames
from shared.valkey.keyspace import TurnKeys
from shared.valkey.scripts import Argument, Script
from tests.bench.relay_client import STAMP, STAMP_BYTES, serve

TICK_SECS = 0.002
TEXT = " the weather"
TTL_MS = 600_000
FILL_PAGE = 1_000
MOST_UNDER_WAY = 5_000

_OPEN_LOG, _OPEN_ATTEMPT, _APPEND = Script("open_log"), Script("open_attempt"), Script("append")
_APPEND_DIGEST = _APPEND.digest.encode()
_BEFORE_STAMP, _, _AFTER_STAMP = frames.delta(f"@|{TEXT}").body.partition(b"|")


class Producer:
    """Writes by pipelining on one connection; answers are counted, and an error among them ends the bench."""

    def __init__(self) -> None:
        self._connection: Subscriber | None = None
        self._turns: list[tuple[bytes, bytes, bytes]] = []
        """The names of events, cancel and live of each."""
        self._seqs: list[int] = []
        self._sent = 0
        self._taken = 0
        self._writing: asyncio.Task[None] | None = None

    async def connect(self, *, url: str) -> dict[str, Any]:
        pool = ConnectionPool.from_url(url)
        self._connection = await Subscriber.connect(pool, self._on_answer)
        for script in (_OPEN_LOG, _OPEN_ATTEMPT, _APPEND):
            self._send(b"SCRIPT", b"LOAD", script.text.encode())
        return {}

    async def reset(self, *, turns: list[list[str]], events: int) -> dict[str, Any]:
        """Begin the logs of these turns anew, each with so many events."""
        if self._turns:
            self._send(b"DEL", *[events_key for events_key, _, _ in self._turns])
        all_keys = [TurnKeys(UUID(chat_id), UUID(request_id)) for chat_id, request_id in turns]
        self._turns = [(keys.events.encode(), keys.cancel.encode(), keys.live.encode()) for keys in all_keys]
        self._seqs = [0] * len(turns)
        restart = frames.restart(attempt=1, reason="worker_lost").body
        for keys in all_keys:
            started = frames.stream_started(
                request_id=keys.request_id, message_id=keys.request_id, is_new_turn=True
            ).body
            self._call(_OPEN_LOG, [keys.events], [keys.live, started, TTL_MS])
            self._call(_OPEN_ATTEMPT, [keys.events], [keys.live, 1, started, restart, TTL_MS, "0"])
        for index in range(len(turns)):
            for _ in range(events):
                self._append(index)
            await asyncio.sleep(0)
        await self._until_taken()
        return {}

    async def fill(self, *, events: int) -> dict[str, Any]:
        """Append so many events to the first log."""
        for number in range(events):
            self._append(0)
            if number % FILL_PAGE == 0:
                await self._until_taken()
        await self._until_taken()
        return {}

    async def start(self, *, rate: float) -> dict[str, Any]:
        """Append so many events a second to every log until `stop`."""
        self._writing = asyncio.get_running_loop().create_task(self._write(rate))
        return {}

    async def stop(self) -> dict[str, Any]:
        assert self._writing is not None
        self._writing.cancel()
        await asyncio.wait({self._writing})
        await self._until_taken()
        return {}

    async def cpu(self) -> dict[str, Any]:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return {"secs": usage.ru_utime + usage.ru_stime, "sent": self._sent}

    async def _write(self, rate: float) -> None:
        loop = asyncio.get_running_loop()
        count = len(self._turns)
        began, done = loop.time(), 0
        while True:
            due = int((loop.time() - began) * rate * count)
            # What cannot be carried is left out, and missing in the rate that clients see; it would only pile up.
            room = max(0, MOST_UNDER_WAY - (self._sent - self._taken))
            for number in range(max(done, due - room), due):
                self._append(number % count)
            done = due
            await asyncio.sleep(TICK_SECS)

    def _append(self, index: int) -> None:
        events, cancel, live = self._turns[index]
        seq = self._seqs[index]
        self._seqs[index] = seq + 1
        body = b"%s%0*d%s" % (_BEFORE_STAMP, STAMP_BYTES, time.time_ns(), _AFTER_STAMP)
        self._send(
            *(b"EVALSHA", _APPEND_DIGEST, 2, events, cancel, live),
            *(b"1-%d" % seq, b"1-%d" % (seq + 1), b"delta", body, b"1", b""),
        )

    def _call(self, script: Script, keys: list[str], arguments: list[Argument]) -> None:
        self._send(b"EVALSHA", script.digest, len(keys), *keys, *arguments)

    def _send(self, *command: Argument) -> None:
        assert self._connection is not None
        self._sent += 1
        self._connection.send(*command)

    def _on_answer(self, answer: Any) -> None:
        self._taken += 1
        if answer in (b"lost", b"superseded", b"cancelled"):
            print(f"the log answers {answer!r}", file=sys.stderr)

    async def _until_taken(self) -> None:
        while self._taken < self._sent:
            if self._connection is None or self._connection.ended.done():
                raise ConnectionError("Valkey is gone")
            await asyncio.sleep(0.001)


async def main() -> None:
    assert frames.delta("@").body.find(STAMP) >= 0, "clients look for this"
    producer = Producer()
    await serve(
        {
            "connect": producer.connect,
            "reset": producer.reset,
            "fill": producer.fill,
            "start": producer.start,
            "stop": producer.stop,
            "cpu": producer.cpu,
        }
    )


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())

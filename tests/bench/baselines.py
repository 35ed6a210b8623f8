"""What the relay is measured against: the same logs as event streams, the way most people write it.

`streaming-response`: each client is an async generator that reads its log by XREAD BLOCK on a connection of its own,
decodes each event and encodes it again. `sse-starlette`: the same with that library's response. Neither authenticates,
asks a database or fills silence, all of which the product does.

`python -m tests.bench.baselines KIND --port PORT`
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import AsyncIterator
from typing import Any, Literal
from uuid import UUID

import uvicorn
from fastapi import FastAPI
from redis.asyncio import Redis
from sse_starlette import EventSourceResponse
from starlette.responses import Response, StreamingResponse

from shared.valkey.keyspace import TurnKeys

Kind = Literal["streaming-response", "sse-starlette"]
KINDS: tuple[Kind, ...] = ("streaming-response", "sse-starlette")
BLOCK_MS = 15_000
PAGE = 100
URL_VARIABLE = "BENCH_REDIS_URL"


def create_app(kind: Kind, redis_url: str) -> FastAPI:
    app = FastAPI()
    valkey: Any = Redis.from_url(redis_url, max_connections=20_000)

    @app.get("/streams/{chat_id}/{request_id}")
    async def stream(chat_id: UUID, request_id: UUID) -> Response:
        events = _follow(valkey, TurnKeys(chat_id, request_id).events)
        if kind == "sse-starlette":
            return EventSourceResponse(events, sep="\n")
        return StreamingResponse(_encoded(events), media_type="text/event-stream")

    @app.get("/healthz")
    async def get_health() -> dict[str, str]:
        return {"status": "ok"}

    return app


async def _follow(valkey: Any, key: str) -> AsyncIterator[dict[str, Any]]:
    cursor = b"0-0"
    while True:
        for _, entries in await valkey.xread({key: cursor}, block=BLOCK_MS, count=PAGE):
            for entry_id, fields in entries:
                cursor = entry_id
                event = fields[b"e"].decode()
                if event != "mark":
                    data = json.loads(fields[b"f"].partition(b"data: ")[2])
                    yield {"id": cursor.decode(), "event": event, "data": _compact(data)}


async def _encoded(events: AsyncIterator[dict[str, Any]]) -> AsyncIterator[str]:
    async for event in events:
        yield f"id: {event['id']}\nevent: {event['event']}\ndata: {event['data']}\n\n"


def _compact(data: Any) -> str:
    return json.dumps(data, separators=(",", ":"))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.baselines", description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    app = create_app(options.kind, os.environ[URL_VARIABLE])
    uvicorn.run(app, port=options.port, loop="uvloop", http="httptools", access_log=False, log_level="warning")


if __name__ == "__main__":
    main()

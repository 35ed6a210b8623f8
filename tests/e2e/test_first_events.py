"""An instant provider answers before anybody has subscribed: no first event may be lost for it."""

from __future__ import annotations

import asyncio

from tests.support.deployment import Deployment
from tests.support.sse import shown_text
from tests.support.turns import ask, scripted

REQUESTS = 240
AT_ONCE = 24


async def test_240_requests_against_an_instant_provider_lose_nothing(product: Deployment) -> None:
    at_once = asyncio.Semaphore(AT_ONCE)
    async with product.client(api=0) as first, product.client(api=1) as second:

        async def one(index: int) -> str:
            async with at_once:
                told = await ask(second if index % 2 else first, scripted(text=f"answer {index}", rate=0))
                assert told.events[0].name == "stream_started"
                assert told.events[-1].name == "done"
                return shown_text(told.events)

        texts = await asyncio.gather(*(one(index) for index in range(REQUESTS)))
    assert texts == [f"answer {index}" for index in range(REQUESTS)]

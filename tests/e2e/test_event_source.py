"""A page's `EventSource`, which reconnects after every close and gives up for ever on any status but 200."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import httpx
import pytest

from shared.ids import new_uuid4
from tests.support.deployment import Deployment, http_client
from tests.support.event_source import EventSource, ReadyState
from tests.support.flaky_proxy import FlakyProxy, flaky_proxy
from tests.support.sse import shown_text
from tests.support.stored import expire_log
from tests.support.stream_rules import assert_well_formed
from tests.support.tokens import Caller
from tests.support.turns import (
    ask,
    create_chat,
    events_path,
    message,
    scripted,
    start_and_leave,
)
from tests.support.waiting import wait_until

TIMEOUT_SECS = 20
TOKENS = 60
TEXT = "".join(f"w{i} " for i in range(TOKENS))


@asynccontextmanager
async def page(
    product: Deployment, caller: Caller, bytes_of: Callable[[int], int | None]
) -> AsyncIterator[tuple[httpx.AsyncClient, FlakyProxy]]:
    """A browser's connections, by way of a network that breaks, to one replica after the other."""
    async with flaky_proxy([api.port for api in product.apis], bytes_of) as (proxy, url), http_client(url) as client:
        client.cookies.set("mini_chat_token", caller.headers["Authorization"].removeprefix("Bearer "))
        yield client, proxy


async def read(source: EventSource) -> None:
    async with asyncio.timeout(TIMEOUT_SECS):
        await source.run()


def some_bytes(number: int) -> int | None:
    """Cuts at ever other places, within frames too, and each time with some progress."""
    return 600 + 37 * number if number < 12 else None


async def test_40_an_event_source_reads_a_running_turn_once_and_stops(
    product: Deployment, caller: Caller, client: httpx.AsyncClient
) -> None:
    chat_id = await create_chat(client)
    body = message(scripted(tokens=TOKENS, rate=120), on_disconnect="continue")
    await start_and_leave(client, chat_id, body)

    async with page(product, caller, some_bytes) as (browser, proxy):
        source = EventSource(browser, events_path(chat_id, body["request_id"]))
        await read(source)

    assert proxy.cuts >= 3
    assert source.ready_state is ReadyState.CLOSED
    assert source.statuses[-1] == httpx.codes.NO_CONTENT
    assert set(source.statuses[:-1]) == {httpx.codes.OK}
    assert source.sent_ids[-1] == source.events[-1].id
    assert_well_formed(source.events)
    assert shown_text(source.events) == TEXT


async def test_40_an_event_source_reads_an_ended_turn_once_and_stops(
    product: Deployment, caller: Caller, client: httpx.AsyncClient
) -> None:
    turn = await ask(client, scripted(tokens=TOKENS, rate=600))

    async with page(product, caller, some_bytes) as (browser, proxy):
        source = EventSource(browser, turn.events_path)
        await read(source)

    assert proxy.cuts >= 3
    assert source.statuses[-1] == httpx.codes.NO_CONTENT
    assert source.events == turn.events


async def test_40_an_event_source_without_drops_connects_twice(
    product: Deployment, caller: Caller, client: httpx.AsyncClient
) -> None:
    turn = await ask(client, scripted(text="Yes.", rate=0))

    async with page(product, caller, lambda _: None) as (browser, _):
        source = EventSource(browser, turn.events_path)
        await read(source)

    assert source.statuses == [httpx.codes.OK, httpx.codes.NO_CONTENT]
    assert source.sent_ids == ["", turn.terminal.id]
    assert source.events == turn.events


async def test_40_an_event_source_whose_log_expires_starts_over_from_storage(
    product: Deployment, caller: Caller, client: httpx.AsyncClient
) -> None:
    turn = await ask(client, scripted(tokens=TOKENS, rate=600))

    async with page(product, caller, lambda number: 900 if number == 0 else None) as (browser, _):
        source = EventSource(browser, turn.events_path, reconnection_secs=0.5)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(read(source), name="event source")
            await wait_until(lambda: source.errors == 1)
            seen = len(source.messages)
            expire_log(product, turn)

    first, second = source.events[:seen], source.events[seen:]
    assert first == turn.events[:seen]
    assert 0 < seen < len(turn.events)
    assert [event.id for event in second] == ["s-1", "s-2", "s-3"]
    assert shown_text(source.events) == TEXT
    assert source.statuses[-1] == httpx.codes.NO_CONTENT


@pytest.mark.parametrize("case", ["unknown turn", "no cookie", "bad cookie"])
async def test_40_an_event_source_gives_up_where_there_is_nothing_to_read(
    product: Deployment, caller: Caller, client: httpx.AsyncClient, case: str
) -> None:
    turn = await ask(client, scripted(text="Yes.", rate=0))
    async with page(product, caller, lambda _: None) as (browser, _):
        path = turn.events_path
        match case:
            case "unknown turn":
                path = events_path(turn.chat_id, new_uuid4())
            case "no cookie":
                browser.cookies.clear()
            case _:
                browser.cookies.set("mini_chat_token", "x.y.z")
        source = EventSource(browser, path)
        await read(source)

    assert source.statuses == [404 if case == "unknown turn" else 401]
    assert source.messages == []

"""Stopping a turn: by its user, from any replica, and because nobody reads it any more."""

from __future__ import annotations

import asyncio
import time
from typing import Any
from uuid import UUID

import httpx

from shared.events.log import FAREWELL_MS
from shared.ids import new_uuid4
from shared.valkey.keyspace import TurnKeys
from tests.support.deployment import Deployment
from tests.support.problems import assert_problem
from tests.support.sse import open_stream, shown_text
from tests.support.turns import create_chat, events_path, message, scripted, send_path, turn_path
from tests.support.waiting import wait_until

ABORT_SECS = 0.2


async def status_of(client: httpx.AsyncClient, chat_id: str, request_id: str) -> dict[str, Any]:
    answer: dict[str, Any] = (await client.get(turn_path(chat_id, request_id))).json()
    return answer


async def wait_for_state(client: httpx.AsyncClient, chat_id: str, request_id: str, state: str) -> dict[str, Any]:
    async def has_ended() -> bool:
        found: str = (await status_of(client, chat_id, request_id))["state"]
        return found == state

    await wait_until(has_ended, timeout=15)
    return await status_of(client, chat_id, request_id)


async def closed_at(product: Deployment, marker: str) -> float:
    await wait_until(lambda: product.provider_requests(marker)[0]["closed_by_caller_at"])
    closed: float = product.provider_requests(marker)[0]["closed_by_caller_at"]
    return closed


async def test_33_a_client_that_leaves_before_any_text_cancels_the_turn(
    product: Deployment, client: httpx.AsyncClient
) -> None:
    """(`cancel`, grace 0) The turn is cancelled, and no answer is stored."""
    chat_id, marker = await create_chat(client), new_uuid4().hex
    body = message(scripted(marker, tokens=50, delay_ms=20_000), on_disconnect="cancel")
    async with open_stream(client, "POST", send_path(chat_id), json=body) as stream:
        await stream.until("stream_started")
    status = await wait_for_state(client, chat_id, body["request_id"], "cancelled")
    assert "assistant_message_id" not in status
    messages = (await client.get(f"/chats/{chat_id}/messages")).json()["items"]
    assert [item["role"] for item in messages] == ["user"]


async def test_34_a_client_that_leaves_after_text_keeps_what_it_saw(
    product: Deployment, client: httpx.AsyncClient
) -> None:
    """(`cancel`, grace 0) The partial answer is stored and listed; it begins with what the client has read."""
    chat_id = await create_chat(client)
    body = message(scripted(tokens=1_000, rate=50), on_disconnect="cancel")
    async with open_stream(client, "POST", send_path(chat_id), json=body) as stream:
        await stream.take(6)
    status = await wait_for_state(client, chat_id, body["request_id"], "cancelled")
    messages = (await client.get(f"/chats/{chat_id}/messages")).json()["items"]
    assert messages[1]["id"] == status["assistant_message_id"]
    assert messages[1]["content"].startswith(shown_text(stream.events))


async def test_35_the_provider_s_connection_is_closed_at_once(
    product: Deployment, client: httpx.AsyncClient, other_replica: httpx.AsyncClient
) -> None:
    """Within 200 ms of a disconnect, and of a stop that another replica was asked for."""
    for how in ("disconnect", "stop"):
        chat_id, marker = await create_chat(client), new_uuid4().hex
        body = message(scripted(marker, tokens=1_000, rate=50), on_disconnect="cancel")
        async with open_stream(client, "POST", send_path(chat_id), json=body) as stream:
            await stream.until("delta")
            left_at = time.time()
            if how == "stop":
                await other_replica.post(f"{turn_path(chat_id, body['request_id'])}/cancel")
        assert await closed_at(product, marker) - left_at < ABORT_SECS


async def test_36_a_stop_ends_the_stream_and_keeps_the_text(
    client: httpx.AsyncClient, other_replica: httpx.AsyncClient
) -> None:
    """What the client has is what is stored; stopping again changes nothing."""
    chat_id = await create_chat(client)
    body = message(scripted(tokens=1_000, rate=100))
    cancel = f"{turn_path(chat_id, body['request_id'])}/cancel"
    async with open_stream(client, "POST", send_path(chat_id), json=body) as stream:
        await stream.take(10)
        first = await other_replica.post(cancel)
        await stream.rest()
    assert (first.status_code, first.json()["state"]) == (200, "cancelled")
    assert stream.events[-1].name == "error"
    assert stream.events[-1].data == {"code": "cancelled", "message": "Generation was cancelled"}
    messages = (await client.get(f"/chats/{chat_id}/messages")).json()["items"]
    assert messages[1]["content"] == shown_text(stream.events)

    again = await client.post(cancel)
    assert (again.status_code, again.json()) == (200, first.json())
    assert_problem(await client.post(f"{turn_path(chat_id, str(new_uuid4()))}/cancel"), 404, "turn_not_found")


async def test_39_a_client_that_comes_back_in_time_keeps_the_turn_alive(product: Deployment) -> None:
    """(`cancel`) Within the grace a reconnect, on any replica, stops the countdown."""
    for _ in range(2):
        product.start_api(STREAMING__DISCONNECT_GRACE_SECS="1")
    first, second = product.apis[-2:]
    try:
        caller_client = product.client(api=-2)
        async with caller_client as client:
            chat_id = await create_chat(client)
            body = message(scripted(tokens=150, rate=50), on_disconnect="cancel")
            async with open_stream(client, "POST", send_path(chat_id), json=body) as stream:
                seen = await stream.take(5)
            path = events_path(chat_id, body["request_id"])
            other = httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{second.port}/mini-chat/v1", headers=client.headers, timeout=30
            )
            async with other, open_stream(other, "GET", path, headers={"Last-Event-ID": seen[-1].id}) as stream:
                seen += await stream.rest()
            assert seen[-1].name == "done"
            assert shown_text(seen) == "".join(f"w{i} " for i in range(150))

            body = message(scripted(tokens=2_000, rate=50), on_disconnect="cancel")
            async with open_stream(client, "POST", send_path(chat_id), json=body) as stream:
                await stream.take(5)
            await wait_for_state(client, chat_id, body["request_id"], "cancelled")
    finally:
        for process in (first, second):
            product.apis.remove(process)
            process.stop()


async def test_each_return_within_the_grace_starts_the_countdown_anew(product: Deployment) -> None:
    """Two drops whose sum is longer than the grace: a client that keeps coming back keeps its turn."""
    with product.extra_api(STREAMING__DISCONNECT_GRACE_SECS="1.5") as api:
        async with product.client(api=api) as client:
            chat_id = await create_chat(client)
            body = message(scripted(tokens=250, rate=50), on_disconnect="cancel")
            path = events_path(chat_id, body["request_id"])
            async with open_stream(client, "POST", send_path(chat_id), json=body) as stream:
                seen = await stream.take(3)
            for _ in range(2):
                await asyncio.sleep(1.0)  # less than the grace
                async with open_stream(client, "GET", path, headers={"Last-Event-ID": seen[-1].id}) as stream:
                    seen += await stream.take(3)
            await asyncio.sleep(0.8)
            async with open_stream(client, "GET", path, headers={"Last-Event-ID": seen[-1].id}) as stream:
                seen += await stream.rest()
    assert seen[-1].name == "done"
    assert shown_text(seen) == "".join(f"w{i} " for i in range(250))


async def test_a_deleted_chat_stops_its_turn(product: Deployment, client: httpx.AsyncClient) -> None:
    chat_id, marker = await create_chat(client), new_uuid4().hex
    body = message(scripted(marker, tokens=1_000, rate=50))
    async with open_stream(client, "POST", send_path(chat_id), json=body) as stream:
        await stream.until("delta")
        assert (await client.delete(f"/chats/{chat_id}")).status_code == httpx.codes.NO_CONTENT
        last = (await stream.rest())[-1]
    assert (last.name, last.data["code"]) == ("error", "cancelled")
    assert await closed_at(product, marker)
    with product.valkey() as valkey:
        log = TurnKeys(UUID(chat_id), UUID(body["request_id"])).events
        await wait_until(lambda: valkey.pttl(log) <= FAREWELL_MS, message="the log outlives its chat")


async def test_a_turn_can_be_stopped_before_any_worker_has_it(product: Deployment, client: httpx.AsyncClient) -> None:
    """The API ends it itself; nobody is asked for anything."""
    chat_id, marker = await create_chat(client), new_uuid4().hex
    worker = product.workers[0]
    worker.popen.send_signal(19)  # SIGSTOP
    try:
        body = message(scripted(marker))
        async with open_stream(client, "POST", send_path(chat_id), json=body) as stream:
            await stream.until("stream_started")
            answer = await client.post(f"{turn_path(chat_id, body['request_id'])}/cancel")
            assert (answer.status_code, answer.json()["state"]) == (200, "cancelled")
            assert (await stream.rest())[-1].data["code"] == "cancelled"
    finally:
        worker.popen.send_signal(18)  # SIGCONT
    assert product.provider_requests(marker) == []

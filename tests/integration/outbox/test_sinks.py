"""Events on their way to a real HTTP server."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from shared.clock import SystemClock
from shared.db.engine import Sessions
from shared.metrics import Metrics
from shared.outbox.dead_letters import DeadLetters
from shared.outbox.messages import AUDIT, USAGE_SNAPSHOT
from shared.outbox.repository import Message
from shared.settings import SinkSettings
from tests.integration.outbox.deliveries import FAST, running
from tests.support.outbox_rows import count_undelivered, dead_letters, insert_messages
from tests.support.waiting import wait_until
from worker.outbox.delivery import Delivery
from worker.outbox.sinks import SinkHandler, open_sink

KEY = b"a key of the tests"
SECRET = "whsec_" + base64.b64encode(KEY).decode()


@dataclass
class Receiver:
    url: str = ""
    answers: list[int] = field(default_factory=list)
    """Statuses to answer with, then 204."""
    requests: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    connections: set[Any] = field(default_factory=set)

    @property
    def names(self) -> list[str]:
        return [json.loads(body)["name"] for _, body in self.requests]

    async def receive(self, request: web.Request) -> web.Response:
        self.requests.append(({name.lower(): value for name, value in request.headers.items()}, await request.read()))
        assert request.transport is not None
        self.connections.add(request.transport.get_extra_info("peername"))
        status = self.answers.pop(0) if self.answers else 204
        return web.Response(status=status, headers={"Location": "/elsewhere"} if status == 307 else None)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    app = web.Application()
    app.router.add_post("/events", receiver.receive)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    receiver.url = f"http://{host}:{port}/events"
    yield receiver
    await runner.cleanup()


@asynccontextmanager
async def delivering(sessions: Sessions, url: str, *, metrics: Metrics, max_attempts: int = 5) -> AsyncIterator[None]:
    settings = SinkSettings.model_validate({"kind": "http", "url": url, "secret": SECRET})
    async with open_sink(settings, clock=SystemClock()) as sink:
        handlers = [
            SinkHandler(queue, sink, max_attempts=max_attempts, metrics=metrics) for queue in (USAGE_SNAPSHOT, AUDIT)
        ]
        delivery = Delivery(settings=FAST, sessions=sessions, metrics=metrics, owner="w", handlers=handlers)
        async with running(delivery):
            yield


async def wait_until_delivered(sessions: Sessions) -> None:
    async def is_empty() -> bool:
        return await count_undelivered(sessions) == 0

    await wait_until(is_empty)


async def test_an_event_is_posted_and_signed(sessions: Sessions, receiver: Receiver) -> None:
    await insert_messages(sessions, "größe", queue=USAGE_SNAPSHOT, dedupe_key="t/u/r")
    async with delivering(sessions, receiver.url, metrics=Metrics("test")):
        await wait_until_delivered(sessions)
    ((headers, body),) = receiver.requests
    assert json.loads(body) == {"name": "größe"}
    assert headers["content-type"] == "application/json"
    assert headers["webhook-id"] == "t/u/r"
    assert abs(int(headers["webhook-timestamp"]) - SystemClock().now().timestamp()) < 30
    signed = f"t/u/r.{headers['webhook-timestamp']}.".encode() + body
    expected = base64.b64encode(hmac.new(KEY, signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"


@pytest.mark.parametrize("status", [500, 503, 410, 400, 307])
async def test_what_is_not_accepted_is_posted_again_under_the_same_id(
    sessions: Sessions, receiver: Receiver, status: int
) -> None:
    receiver.answers = [status, status]
    (message, _) = await insert_messages(sessions, "a", "b", queue=AUDIT)
    metrics = Metrics("test")
    async with delivering(sessions, receiver.url, metrics=metrics):
        await wait_until_delivered(sessions)
    assert receiver.names == ["a", "a", "a", "b"]
    assert {headers["webhook-id"] for headers, _ in receiver.requests[:3]} == {str(message.id)}
    assert len({body for _, body in receiver.requests[:3]}) == 1
    value = metrics.registry.get_sample_value
    assert value("test_audit_emit_total", {"result": "failed"}) == 2
    assert value("test_audit_emit_total", {"result": "ok"}) == 2


async def test_events_of_a_chat_are_posted_in_order(sessions: Sessions, receiver: Receiver) -> None:
    receiver.answers = [204, 500, 204, 500] * 5
    names = [str(number) for number in range(30)]
    await insert_messages(sessions, *names, queue=USAGE_SNAPSHOT)
    async with delivering(sessions, receiver.url, metrics=Metrics("test")):
        await wait_until_delivered(sessions)
    assert list(dict.fromkeys(receiver.names)) == names
    assert receiver.names == sorted(receiver.names, key=int)
    assert len(receiver.connections) == 1


async def test_an_event_that_is_never_accepted_becomes_a_dead_letter(sessions: Sessions, receiver: Receiver) -> None:
    receiver.answers = [500] * 3
    await insert_messages(sessions, "a", "b", queue=AUDIT)
    metrics = Metrics("test")
    async with delivering(sessions, receiver.url, metrics=metrics, max_attempts=3):
        await wait_until_delivered(sessions)
    assert receiver.names == ["a", "a", "a", "b"]
    (letter,) = await dead_letters(sessions)
    assert (letter.attempts, letter.reason) == (3, "DeliveryError: answered 500")
    assert metrics.registry.get_sample_value("test_audit_emit_total", {"result": "dropped"}) == 1


async def test_an_error_shows_no_credentials_of_the_address(sessions: Sessions) -> None:
    await insert_messages(sessions, "a", queue=AUDIT)
    url = "http://user:hunter2@127.0.0.1:9/events"
    async with delivering(sessions, url, metrics=Metrics("test"), max_attempts=1):
        await wait_until_delivered(sessions)
    (letter,) = await dead_letters(sessions)
    assert (letter.reason or "").startswith("DeliveryError: no answer: ")
    assert "hunter2" not in (letter.reason or "")


async def test_the_log_sink_writes_a_line_whatever_the_level(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("mini_chat.events").setLevel(logging.NOTSET)
    message = Message(7, USAGE_SNAPSHOT, "k", "t", {"event_type": "usage_snapshot"}, None, 0, SystemClock().now())
    async with open_sink(SinkSettings(), clock=SystemClock()) as sink:
        await sink.send(message)
    (record,) = [record for record in caplog.records if record.name == "mini_chat.events"]
    assert vars(record)["event"] == {"event_type": "usage_snapshot"}
    assert vars(record)["event_id"] == "7"


async def test_a_replayed_event_is_known_by_the_id_of_its_earlier_tries(sessions: Sessions, receiver: Receiver) -> None:
    """A receiver may have taken it and still answered 500, or too late."""
    receiver.answers = [500, 500]
    await insert_messages(sessions, "again", queue=AUDIT)
    async with delivering(sessions, receiver.url, metrics=Metrics("test"), max_attempts=1):
        for deaths in (1, 2):

            async def are_dead(deaths: int = deaths) -> bool:
                return len(await dead_letters(sessions)) == deaths

            await wait_until(are_dead)
            async with sessions.begin() as session:
                assert len((await DeadLetters(session).replay(queue=AUDIT)).queued) == 1
        await wait_until(lambda: len(receiver.requests) == 3)
    assert len({headers["webhook-id"] for headers, _ in receiver.requests}) == 1

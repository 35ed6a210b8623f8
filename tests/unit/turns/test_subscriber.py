"""The subscribing connection without a network: how bytes become messages, and what ends it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from api.turns import subscriber as module
from api.turns.subscriber import Subscriber
from tests.support.waiting import wait_until


class Wire(asyncio.Transport):
    """Collects what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.is_aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def abort(self) -> None:
        self.is_aborted = True


def connected(messages: list[Any]) -> tuple[Subscriber, Wire]:
    subscriber, wire = Subscriber(messages.append), Wire()
    subscriber.connection_made(wire)
    return subscriber, wire


def bulk(data: bytes) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(data), data)


def published(channel: bytes, payload: bytes) -> bytes:
    return b"*3\r\n" + bulk(b"message") + bulk(channel) + bulk(payload)


ACKNOWLEDGED = b"*3\r\n" + bulk(b"subscribe") + bulk(b"c") + b":1\r\n"
STREAM = (
    b"+PONG\r\n"
    + ACKNOWLEDGED
    + published(b"c", b"1-0 1-1 delta\nevent: delta\r\n\r\n")
    + published(b"c", b"")
    + b"*2\r\n"
    + bulk(b"pong")
    + bulk(b"")
)
MESSAGES = [
    b"PONG",
    [b"subscribe", b"c", 1],
    [b"message", b"c", b"1-0 1-1 delta\nevent: delta\r\n\r\n"],
    [b"message", b"c", b""],
    [b"pong", b""],
]


async def test_a_cut_at_any_byte_changes_nothing() -> None:
    for cut in range(len(STREAM) + 1):
        messages: list[Any] = []
        subscriber, _ = connected(messages)
        subscriber.data_received(STREAM[:cut])
        subscriber.data_received(STREAM[cut:])
        assert messages == MESSAGES
        assert not subscriber.ended.done()


@given(payloads=st.lists(st.binary(max_size=50), max_size=8), cuts=st.lists(st.integers(0, 700), max_size=20))
def test_any_chunks_bring_the_same_messages(payloads: list[bytes], cuts: list[int]) -> None:
    async def run() -> None:
        stream = b"".join(published(b"channel", payload) for payload in payloads)
        messages: list[Any] = []
        subscriber, _ = connected(messages)
        ends = [*sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
        begin = 0
        for end in ends:
            subscriber.data_received(stream[begin:end])
            begin = end
        assert messages == [[b"message", b"channel", payload] for payload in payloads]

    asyncio.run(run())


async def test_commands_are_written_as_they_come() -> None:
    subscriber, wire = connected([])
    subscriber.send(b"SUBSCRIBE", b"a channel")
    subscriber.send(b"PING")
    assert wire.written == b"*2\r\n$9\r\nSUBSCRIBE\r\n$9\r\na channel\r\n*1\r\n$4\r\nPING\r\n"


@pytest.mark.parametrize(
    ("answer", "kind"), [(b"-NOPERM no permissions\r\n", ResponseError), (b"HTTP/1.1 400 Bad\r\n", InvalidResponse)]
)
async def test_an_error_or_nonsense_ends_it(answer: bytes, kind: type[Exception]) -> None:
    """What came before is passed on, what comes after is not."""
    messages: list[Any] = []
    subscriber, wire = connected(messages)
    subscriber.data_received(ACKNOWLEDGED + answer + ACKNOWLEDGED)
    assert isinstance(await subscriber.until_end(), kind)
    assert messages == [[b"subscribe", b"c", 1]]
    assert wire.is_aborted
    subscriber.send(b"PING")
    assert b"PING" not in wire.written


async def test_what_the_receiver_raises_ends_it() -> None:
    def refuse(message: Any) -> None:
        raise ValueError(f"{len(message)} parts")

    subscriber = Subscriber(refuse)
    subscriber.data_received(ACKNOWLEDGED)
    assert str(await subscriber.until_end()) == "3 parts"


@pytest.mark.parametrize(("reason", "kind"), [(None, RedisConnectionError), (BrokenPipeError(), BrokenPipeError)])
async def test_a_lost_connection_ends_it(reason: Exception | None, kind: type[Exception]) -> None:
    subscriber, _ = connected([])
    subscriber.connection_lost(reason)
    assert isinstance(await subscriber.until_end(), kind)


async def test_a_silent_server_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that answers its PINGs does not."""
    monkeypatch.setattr(module, "HEARTBEAT_SECS", 0.05)
    subscriber, wire = connected([])
    async with asyncio.TaskGroup() as tasks:
        ending = tasks.create_task(subscriber.until_end())
        for pings in range(1, 4):
            await wait_until(lambda: wire.written.count(b"PING") == pings, interval=0.001)  # noqa: B023 (awaited here)
            assert not subscriber.ended.done()
            subscriber.data_received(b"+PONG\r\n")
    assert wire.written.count(b"PING") == 4
    assert isinstance(ending.result(), RedisTimeoutError)

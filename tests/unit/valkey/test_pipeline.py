"""Replies find their commands, however the bytes are cut and whoever has stopped waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import DataError, NoScriptError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from shared.valkey.pipeline import ReplyMatcher, pack

OK = b"+OK\r\n"


class FakeTransport:
    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.is_aborted = False

    def write(self, data: bytes) -> None:
        self.writes.append(data)

    def abort(self) -> None:
        self.is_aborted = True


def connected(*, timeout_secs: float = 5.0) -> tuple[ReplyMatcher, FakeTransport]:
    matcher, transport = ReplyMatcher(timeout_secs=timeout_secs), FakeTransport()
    matcher.connection_made(cast("asyncio.Transport", transport))
    return matcher, transport


def encoded(reply: Any) -> bytes:
    match reply:
        case None:
            return b"$-1\r\n"
        case int():
            return b":%d\r\n" % reply
        case bytes():
            return b"$%d\r\n%s\r\n" % (len(reply), reply)
        case RedisError():
            return b"-ERR %s\r\n" % str(reply).encode()
        case _:
            return b"*%d\r\n%s" % (len(reply), b"".join(map(encoded, reply)))


plain = st.none() | st.integers(-(2**63), 2**63 - 1) | st.binary(max_size=30)
replies = st.recursive(plain, lambda inner: st.lists(inner, max_size=4), max_leaves=8)
errors = st.text("abc ", min_size=1, max_size=10).map(str.strip).filter(bool).map(ResponseError)


@given(
    expected=st.lists(st.tuples(replies | errors, st.booleans()), max_size=12),
    cuts=st.lists(st.integers(1, 9), max_size=40),
)
def test_replies_are_matched_by_order_whatever_the_reads(expected: list[tuple[Any, bool]], cuts: list[int]) -> None:
    """Also past callers that no longer wait, whose replies nobody may get."""

    async def scenario() -> None:
        matcher, _ = connected()
        futures = [matcher.send(b"x") for _ in expected]
        for future, (_, is_cancelled) in zip(futures, expected, strict=True):
            if is_cancelled:
                future.cancel()
        stream = b"".join(encoded(reply) for reply, _ in expected)
        for cut in cuts:
            matcher.data_received(stream[:cut])
            stream = stream[cut:]
        matcher.data_received(stream)
        for future, (reply, is_cancelled) in zip(futures, expected, strict=True):
            if is_cancelled:
                assert future.cancelled()
            elif isinstance(reply, RedisError):
                assert (type(future.exception()), str(future.exception())) == (ResponseError, str(reply))
            else:
                assert future.result() == reply
        assert matcher.is_open
        matcher.give_up(lambda: RedisConnectionError("over"))

    asyncio.run(scenario())


async def test_commands_of_one_tick_leave_in_one_write() -> None:
    matcher, transport = connected()
    futures = [matcher.send(b"a"), matcher.send(b"b")]
    await asyncio.sleep(0)
    futures.append(matcher.send(b"c"))
    await asyncio.sleep(0)
    assert transport.writes == [b"ab", b"c"]
    matcher.data_received(3 * OK)
    assert await asyncio.gather(*futures) == [b"OK"] * 3


async def test_an_unknown_script_is_told_from_other_errors() -> None:
    matcher, _ = connected()
    reply = matcher.send(b"x")
    matcher.data_received(b"-NOSCRIPT No matching script.\r\n")
    with pytest.raises(NoScriptError):
        await reply


async def test_an_overdue_reply_ends_the_connection_and_all_that_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any later reply could be anybody's."""
    let_pass = held_time(monkeypatch)
    matcher, transport = connected(timeout_secs=5)
    first = matcher.send(b"a")
    await let_pass(4)
    second = matcher.send(b"b")
    await let_pass(2)
    for reply in (first, second):
        with pytest.raises(RedisTimeoutError):
            await reply
    assert transport.is_aborted
    assert not matcher.is_open


async def test_time_is_counted_from_each_command(monkeypatch: pytest.MonkeyPatch) -> None:
    let_pass = held_time(monkeypatch)
    matcher, transport = connected(timeout_secs=5)
    for _ in range(4):
        reply = matcher.send(b"a")
        await let_pass(2)
        matcher.data_received(OK)
        assert await reply == b"OK"
    await let_pass(6)  # with nothing to wait for, nothing is overdue
    assert not transport.is_aborted


def held_time(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], Awaitable[None]]:
    """The event loop's time stands still but for what the returned function lets pass."""
    loop = asyncio.get_running_loop()
    now = loop.time()
    monkeypatch.setattr(loop, "time", lambda: now)

    async def let_pass(secs: float) -> None:
        nonlocal now
        now += secs
        for _ in range(3):  # a timer that is due runs in the round after the one that finds it
            await asyncio.sleep(0)

    return let_pass


async def test_a_lost_connection_fails_what_waits_and_what_comes() -> None:
    matcher, _ = connected()
    waiting = matcher.send(b"a")
    matcher.connection_lost(None)
    with pytest.raises(RedisConnectionError):
        await waiting
    with pytest.raises(RedisConnectionError):
        await matcher.send(b"b")


@pytest.mark.parametrize("garbage", [OK, b"?\r\n"], ids=["a reply to no command", "no protocol"])
async def test_what_no_command_asked_for_ends_the_connection(garbage: bytes) -> None:
    matcher, transport = connected()
    matcher.data_received(garbage)
    assert transport.is_aborted
    assert not matcher.is_open


def test_a_command_is_packed_as_the_protocol_wants_it() -> None:
    assert pack(["CLIENT LIST", "ü", b"\r\n", 7]) == (
        b"*5\r\n$6\r\nCLIENT\r\n$4\r\nLIST\r\n$2\r\n\xc3\xbc\r\n$2\r\n\r\n\r\n$1\r\n7\r\n"
    )
    with pytest.raises(DataError):
        pack(["SET", "key", None])

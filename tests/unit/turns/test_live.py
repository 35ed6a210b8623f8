"""A subscription's buffer: small, and honest about what it has lost."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from api.turns.live import LiveEntry, Probe, Subscription


def entry(seq: int) -> LiveEntry:
    return LiveEntry(b"1-%d" % (seq - 1), b"1-%d" % seq, b"delta", b"body")


@pytest.fixture
def subscription() -> Subscription:
    """Of a reader who has just read the log."""
    subscription = Subscription(b"channel", capacity=3)
    subscription.begin_reading_log()
    return subscription


def test_what_comes_before_the_log_is_read_is_a_gap() -> None:
    subscription = Subscription(b"channel", capacity=3)
    subscription.offer(entry(1))
    assert subscription.has_gap
    assert subscription.take() == []


async def test_entries_are_taken_once_and_in_order(subscription: Subscription) -> None:
    subscription.offer(entry(1))
    subscription.offer(entry(2))
    await subscription.wait()
    assert subscription.take() == [entry(1), entry(2)]
    assert subscription.take() == []
    assert not subscription.has_gap


async def test_overflow_is_a_gap_and_frees_the_buffer(subscription: Subscription) -> None:
    for seq in range(1, 5):
        subscription.offer(entry(seq))
    subscription.offer(entry(5))
    await subscription.wait()
    assert subscription.has_gap
    assert subscription.take() == []


async def test_a_reader_that_waits_is_woken(subscription: Subscription) -> None:
    for happen in (partial(subscription.offer, entry(1)), subscription.mark_gap, subscription.wake):
        subscription.begin_reading_log()
        async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(subscription.wait())
            await asyncio.sleep(0)
            assert not waiting.done()
            happen()


async def test_a_wait_that_was_given_up_is_none(subscription: Subscription) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.001):
            await subscription.wait()
    subscription.offer(entry(1))
    await subscription.wait()
    assert subscription.take() == [entry(1)]


async def test_reading_the_log_answers_what_has_happened_before(subscription: Subscription) -> None:
    """A reader that reads because of a gap must not be woken by the same gap again."""
    subscription.mark_gap()
    subscription.begin_reading_log()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.001):
            await subscription.wait()


async def test_a_probe_tells_how_long_an_announcement_has_taken() -> None:
    """Up to the next wait: then the client has been written to. What nobody announced is not measured."""
    lags: list[float] = []
    probe = Probe(b"channel", 3, lags.append)
    probe.offer(entry(1))  # a gap: the log is read
    probe.begin_reading_log()
    for seq in (2, 3):
        probe.offer(entry(seq))
    await probe.wait()
    assert (len(probe.take()), lags) == (2, [])
    probe.offer(entry(4))  # while the client is written to
    await probe.wait()
    assert len(lags) == 1
    assert probe.take() == [entry(4)]
    probe.mark_gap()
    await probe.wait()
    assert (len(lags), probe.take()) == (2, [])
    probe.begin_reading_log()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.001):
            await probe.wait()
    assert len(lags) == 2


async def test_a_probe_measures_what_has_to_be_read_from_the_log_as_well() -> None:
    """Without the fast path that is everything, and of a client that lags what overflowed."""
    lags: list[float] = []
    probe = Probe(b"channel", 1, lags.append)
    probe.begin_reading_log()
    for announced in (0, 2):
        measured = len(lags)
        for seq in range(announced):
            probe.offer(entry(seq))
        if not announced:
            probe.announce()
        await probe.wait()
        assert probe.take() == []
        probe.begin_reading_log()
        assert len(lags) == measured
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await probe.wait()
        assert len(lags) == measured + 1

"""Laws of the rate, on the real script: time passes by moving what it has stored into the past."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.ids import new_uuid4
from shared.valkey.keyspace import LimitKeys
from shared.valkey.scripts import Script

SECOND = 1_000_000

intervals = st.integers(1_000, 60 * SECOND)
bursts = st.integers(1, 8)


@dataclass
class Bucket:
    """One user's bucket, in a time of its own: the server's, and what `pass_time` has added to it."""

    server: redis.Redis
    interval: int
    burst: int
    keys: LimitKeys = field(default_factory=lambda: LimitKeys(new_uuid4(), new_uuid4()))
    _passed: int = 0

    def now(self) -> int:
        seconds, micros = self.server.time()  # type: ignore[misc]
        return int(seconds) * SECOND + int(micros) + self._passed

    def ask(self) -> int:
        """0 if the request is let in, else how long to wait."""
        keys = [self.keys.rate, self.keys.turns, self.keys.streams, "queue", "admitted"]
        arguments = [str(self.interval), str(self.burst), "", "", "0", "", "0", "0", "0", "0", "0", ""]
        answer: Any = self.server.eval(Script("admit").text, len(keys), *keys, *arguments)
        return 0 if answer == [b"in"] else int(answer[1])

    def pass_time(self, micros: int) -> None:
        self._passed += micros
        full_at: Any = self.server.get(self.keys.rate)
        if full_at is not None:
            self.server.set(self.keys.rate, int(full_at) - micros, keepttl=True)


@pytest.fixture(scope="module")
def server(valkey_url: str) -> redis.Redis:
    return redis.Redis.from_url(valkey_url)


@settings(deadline=None, max_examples=60)
@given(intervals, bursts, st.lists(st.one_of(st.none(), st.floats(0, 3)), max_size=40))
def test_no_window_has_more_than_a_burst_and_what_its_length_allows(
    server: redis.Redis, interval: int, burst: int, steps: list[float | None]
) -> None:
    bucket = Bucket(server, interval, burst)
    let_in: list[tuple[int, int]] = []
    for step in steps:
        if step is not None:
            bucket.pass_time(round(step * interval))
            continue
        before = bucket.now()
        if bucket.ask() == 0:
            let_in.append((before, bucket.now()))
    for first, (began, _) in enumerate(let_in):
        for last in range(first, len(let_in)):
            assert last - first + 1 <= burst + (let_in[last][1] - began) / interval


@settings(deadline=None, max_examples=60)
@given(intervals, bursts)
def test_who_was_idle_may_send_a_burst_and_who_waits_as_told_is_let_in(
    server: redis.Redis, interval: int, burst: int
) -> None:
    bucket = Bucket(server, interval, burst)
    for _ in range(2):
        began = bucket.now()
        assert [bucket.ask() for _ in range(burst)] == [0] * burst
        wait = bucket.ask()
        if wait == 0:
            assert bucket.now() - began >= interval  # so slow that one more is due
            return
        assert 0 < wait <= interval
        bucket.pass_time(wait)
        assert bucket.ask() == 0
        bucket.pass_time(burst * interval)


@settings(deadline=None, max_examples=40)
@given(st.integers(10 * SECOND, 60 * SECOND), bursts, st.floats(0, 0.9))
def test_who_comes_early_is_refused_and_loses_nothing_by_it(
    server: redis.Redis, interval: int, burst: int, share: float
) -> None:
    bucket = Bucket(server, interval, burst)
    assert [bucket.ask() for _ in range(burst)] == [0] * burst
    wait = bucket.ask()
    told = bucket.now() + wait
    bucket.pass_time(round(share * (told - bucket.now())))
    for _ in range(3):
        again = bucket.ask()
        assert 0 < again <= told - bucket.now() + SECOND
    bucket.pass_time(told - bucket.now())
    assert bucket.ask() == 0


@settings(deadline=None, max_examples=20)
@given(intervals, bursts)
def test_a_bucket_is_forgotten_when_it_is_full_again(server: redis.Redis, interval: int, burst: int) -> None:
    bucket = Bucket(server, interval, burst)
    for asked in range(1, burst + 1):
        assert bucket.ask() == 0
        life: Any = server.pttl(bucket.keys.rate)
        assert life <= asked * interval / 1000 + 1


def test_the_slowest_rate_and_the_largest_burst_are_counted_without_loss(server: redis.Redis) -> None:
    """The bounds of `limits.requests_per_second` and `limits.burst` together."""
    bucket = Bucket(server, 1_000 * SECOND, 1_000_000)
    server.set(bucket.keys.rate, bucket.now() + (bucket.burst - 1) * bucket.interval)
    assert bucket.ask() == 0
    assert bucket.interval - SECOND < bucket.ask() <= bucket.interval

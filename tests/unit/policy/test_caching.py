from __future__ import annotations

from datetime import timedelta

from shared.policy.caching import Cache
from tests.support.clock import HeldClock


def test_what_was_not_asked_for_longest_goes_first() -> None:
    cache: Cache[str, int] = Cache(capacity=2, clock=HeldClock())
    cache.put("a", 1)
    cache.put("b", 2)
    assert cache.get("a") == 1
    cache.put("c", 3)
    assert [cache.get(key) for key in "abc"] == [1, None, 3]
    assert len(cache) == 2


def test_an_entry_that_is_too_old_is_forgotten() -> None:
    clock = HeldClock()
    cache: Cache[str, int] = Cache(capacity=2, clock=clock, ttl=timedelta(seconds=60))
    cache.put("a", 1)
    clock.move(timedelta(seconds=59))
    assert cache.get("a") == 1
    clock.move(timedelta(seconds=1))
    assert cache.get("a") is None
    assert len(cache) == 0

"""Trying again for as long as an outage lasts, and no longer."""

from __future__ import annotations

import itertools

import pytest

from shared.backoff import backoff, outlast


def test_waits_double_up_to_the_longest() -> None:
    waits = list(itertools.islice(backoff(first=1.0, longest=5.0), 6))
    for wait, expected in zip(waits, [1, 2, 4, 5, 5, 5], strict=True):
        assert 0.75 * expected <= wait <= 1.25 * expected


async def test_an_outage_is_outlasted() -> None:
    failures = [ConnectionError("1"), ConnectionError("2")]
    seen: list[Exception] = []

    async def call() -> str:
        if failures:
            raise failures.pop(0)
        return "answer"

    def is_outage(error: Exception) -> bool:
        seen.append(error)
        return isinstance(error, ConnectionError)

    assert await outlast(call, is_outage=is_outage, first=0.001) == "answer"
    assert [str(error) for error in seen] == ["1", "2"]


async def test_any_other_failure_is_raised_at_once() -> None:
    tries = 0

    async def call() -> None:
        nonlocal tries
        tries += 1
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011 (raised above, without a text)
        await outlast(call, is_outage=lambda error: isinstance(error, ConnectionError), first=0.001)
    assert tries == 1

from __future__ import annotations

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from shared.outbox.repository import SLOTS, slots_of
from shared.outbox.retries import retry_delay

SECONDS = st.floats(min_value=0.001, max_value=3_600)


@given(st.integers(min_value=1, max_value=100_000), SECONDS, SECONDS)
def test_a_delay_lies_between_base_and_maximum(failures: int, base: float, longest: float) -> None:
    delay = retry_delay(failures, base_secs=base, max_secs=longest)
    microsecond = timedelta(microseconds=1)
    assert timedelta(seconds=min(base, longest)) - microsecond <= delay <= timedelta(seconds=longest) + microsecond


@given(st.integers(min_value=1, max_value=20))
def test_delays_double_up_to_the_maximum(failures: int) -> None:
    """Jitter takes at most half of a step away."""
    step = min(60.0, 2.0 ** (failures - 1))
    assert step / 2 <= retry_delay(failures, base_secs=1, max_secs=60).total_seconds() <= step


@given(st.integers(), st.integers(min_value=0, max_value=6))
def test_a_key_belongs_to_the_task_of_its_hash(key_hash: int, exponent: int) -> None:
    """Whatever the number of tasks, the slot of a hash is served by task `hash mod n`, and by no other."""
    partitions = 2**exponent
    slot = key_hash & (SLOTS - 1)
    serving = [number for number in range(partitions) if slot in slots_of(number, partitions=partitions)]
    assert serving == [key_hash % partitions]

from __future__ import annotations

from datetime import timedelta

from shared.clock import SystemClock
from shared.ids import first_uuid7, new_uuid7


def test_the_first_id_of_a_moment_is_between_those_before_and_those_after() -> None:
    moment = timedelta(milliseconds=5)
    before = first_uuid7(SystemClock().now() - moment)
    made = new_uuid7()
    assert before <= made < first_uuid7(SystemClock().now() + moment)

"""When a turn calls for a summary."""

from __future__ import annotations

import pytest

from shared.summaries.trigger import ContextUse


@pytest.mark.parametrize(
    ("assembled", "truncated", "has_summary", "expected"),
    [
        (0, True, False, True),
        (0, True, True, True),
        (719, False, False, False),
        (720, False, False, True),
        (720, False, True, False),
    ],
)
def test_urgent_and_proactive(assembled: int, truncated: bool, has_summary: bool, expected: bool) -> None:
    """80 % of a window of 1 000 beside an answer of 99 are 720, rounded down."""
    use = ContextUse(assembled, truncated, context_window=1_000, max_output_tokens=99)
    assert use.calls_for_summary(has_summary=has_summary, threshold_pct=80) is expected

"""How far the clocks of others are from that of this machine."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from shared.doctor.findings import Finding, fail, ok, warn

NOTABLE: Final = timedelta(seconds=1)
HARMFUL: Final = timedelta(seconds=5)
"""Heartbeats last 10 s, leases as long by default."""
_CHANGE: Final = "let NTP set the clocks of all machines"


def check_clock(whose: str, theirs: datetime, *, asked_at: datetime, answered_at: datetime) -> Finding:
    """Compare `theirs` with our clock around the question; a slow answer is no difference of clocks."""
    ahead = max(theirs - answered_at, timedelta())
    behind = max(asked_at - theirs, timedelta())
    check = f"clock of {whose}"
    seen = f"{ahead.total_seconds():.1f} s ahead" if ahead > behind else f"{behind.total_seconds():.1f} s behind"
    difference = max(ahead, behind)
    if difference > HARMFUL:
        return fail(check, seen, _CHANGE)
    return warn(check, seen, _CHANGE) if difference > NOTABLE else ok(check, "as ours")

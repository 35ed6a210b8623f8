"""Days and months are UTC and the application's clock's; a turn settles the periods in which it reserved."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest

from shared.turns.lifecycle import Ending, TokenUsage
from tests.support.catalogs import PREMIUM
from tests.support.ledger import Ledger
from tests.support.tokens import Caller

ANSWER = Ending.completed(text="Hi", usage=TokenUsage(100, 10), response_id=None)
CHARGE = 3 * 100 + 15 * 10


async def spent_by_day(ledger: Ledger, ann: Caller) -> dict[tuple[str, date], tuple[int, int]]:
    """What `total` has spent and reserved, by period."""
    rows = await ledger.database.fetch("SELECT * FROM quota_usage WHERE user_id = $1 AND bucket = 'total'", ann.user_id)
    return {
        (row["period_type"], row["period_start"]): (row["spent_credits_micro"], row["reserved_credits_micro"])
        for row in rows
    }


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (datetime(2026, 3, 14, 23, 59, 59, 999_999, UTC), datetime(2026, 3, 15, tzinfo=UTC)),
        (datetime(2026, 3, 31, 23, 59, 59, tzinfo=UTC), datetime(2026, 4, 1, 0, 0, 1, tzinfo=UTC)),
        (datetime(2026, 12, 31, 23, 59, tzinfo=UTC), datetime(2027, 1, 1, 1, tzinfo=UTC)),
        (datetime(2028, 2, 28, 12, tzinfo=UTC), datetime(2028, 2, 29, 12, tzinfo=UTC)),
    ],
)
async def test_a_turn_across_midnight_settles_the_day_it_reserved(
    ledger: Ledger, ann: Caller, before: datetime, after: datetime
) -> None:
    ledger.clock.moment = before
    turn = await ledger.send(ann, await ledger.new_chat(ann, model=PREMIUM))
    ledger.clock.moment = after
    await ledger.end(turn, ANSWER)
    old_day, old_month = before.date(), before.date().replace(day=1)
    assert await spent_by_day(ledger, ann) == {("daily", old_day): (CHARGE, 0), ("monthly", old_month): (CHARGE, 0)}

    later = await ledger.send(ann, await ledger.new_chat(ann, model=PREMIUM))
    reserve = later.reserved_credits_micro
    new_day, new_month = after.date(), after.date().replace(day=1)
    books = await spent_by_day(ledger, ann)
    assert books["daily", new_day] == (0, reserve)
    assert books["monthly", new_month] == ((0, reserve) if new_month != old_month else (CHARGE, reserve))
    await ledger.end(later, ANSWER)


async def test_a_new_day_brings_new_credit_and_a_new_month_too(ledger: Ledger, ann: Caller) -> None:
    """Premium is used up today and downgrades; tomorrow it answers again."""
    chat_id = await ledger.new_chat(ann, model=PREMIUM)
    first = await ledger.send(ann, chat_id)
    await ledger.end(first, ANSWER)
    await ledger.database.execute(
        "UPDATE quota_usage SET spent_credits_micro = spent_credits_micro + 49999000"
        " WHERE bucket = 'tier:premium' AND period_type = 'daily'"
    )
    ledger.given.append((ann.user_id, "daily", "tier:premium", 49_999_000))
    second = await ledger.send(ann, chat_id)
    await ledger.end(second, ANSWER)
    assert (second.quota_decision, second.downgrade_reason) == ("downgrade", "premium_quota_exhausted")
    ledger.clock.moment = datetime(2026, 3, 15, tzinfo=UTC)
    third = await ledger.send(ann, chat_id)
    await ledger.end(third, ANSWER)
    assert third.quota_decision == "allow"
    # The expected differences of today's bucket are not those of tomorrow's, which was given nothing.
    await ledger.database.execute(
        "UPDATE quota_usage SET spent_credits_micro = spent_credits_micro - 49999000"
        " WHERE bucket = 'tier:premium' AND period_type = 'daily' AND period_start = '2026-03-14'"
    )
    ledger.given.clear()

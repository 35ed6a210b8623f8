"""Many users reserve and settle in any order, over days and months: what must hold of every ledger that does it right.

The ledger here is a dict; decision, reserve and settlement are the product's own.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from api.turns.admission import Admission, Case
from shared.ids import new_uuid4
from shared.model_catalog.catalog import Catalog
from shared.quotas.buckets import ALL_BUCKETS, BucketKey, buckets_of
from shared.quotas.credits import Price
from shared.quotas.errors import QuotaExceededError
from shared.quotas.reserve import Standing
from shared.quotas.settlement import Reserved, settle
from shared.settings import Settings
from shared.turns.lifecycle import TokenUsage
from shared.turns.tools import AvailableFiles
from tests.support.catalogs import DISABLED, MINI, NANO, PREMIUM, STANDARD, acceptance_catalog

CATALOG = Catalog.model_validate(acceptance_catalog())
SETTINGS = Settings()
LIMITS = {
    BucketKey("daily", "total"): 300_000,
    BucketKey("monthly", "total"): 900_000,
    BucketKey("daily", "tier:premium"): 200_000,
    BucketKey("monthly", "tier:premium"): 500_000,
}
TOLERANCE = SETTINGS.quota.overshoot_tolerance_factor

Row = tuple[int, BucketKey, date]


@dataclass(frozen=True, eq=False)
class RunningTurn:
    user: int
    day: date
    admission: Admission

    @property
    def rows(self) -> list[Row]:
        return [row_of(self.user, key, self.day) for key in buckets_of(self.admission.decision.model.tier)]


def row_of(user: int, key: BucketKey, day: date) -> Row:
    return user, key, day if key.period == "daily" else day.replace(day=1)


class LedgerMachine(RuleBasedStateMachine):
    turns = Bundle("turns")

    def __init__(self) -> None:
        super().__init__()
        self.day = date(2026, 12, 30)
        self.spent: defaultdict[Row, int] = defaultdict(int)
        self.reserved: defaultdict[Row, int] = defaultdict(int)
        self.running: set[RunningTurn] = set()
        self.events: list[tuple[RunningTurn, int]] = []

    @rule(
        target=turns,
        user=st.integers(0, 2),
        model=st.sampled_from([PREMIUM, STANDARD, MINI, NANO, DISABLED, "gone"]),
        length=st.integers(1, 20_000),
        prior=st.integers(0, 20_000),
    )
    def send(self, user: int, model: str, length: int, prior: int) -> Any:
        case = Case("x" * length, model, 0, False, prior, AvailableFiles(), CATALOG, LIMITS, SETTINGS)
        used = {key: self._used(row_of(user, key, self.day)) for key in ALL_BUCKETS}
        try:
            admission = case.decide(Standing(used))
        except QuotaExceededError:
            return multiple()
        turn = RunningTurn(user, self.day, admission)
        for row in turn.rows:
            self.reserved[row] += admission.reserve.credits_micro
            assert self._used(row) <= LIMITS[row[1]], "a reserve went beyond a limit"
        self.running.add(turn)
        return turn

    @rule(
        turn=consumes(turns),
        usage=st.one_of(st.none(), st.builds(TokenUsage, st.integers(0, 50_000), st.integers(0, 20_000))),
        started=st.booleans(),
    )
    def end(self, turn: RunningTurn, usage: TokenUsage | None, started: bool) -> None:
        model, reserve = turn.admission.decision.model, turn.admission.reserve
        reserved = Reserved(
            user_id=new_uuid4(),
            tokens=reserve.tokens,
            max_output_tokens=reserve.max_output_tokens,
            credits_micro=reserve.credits_micro,
            minimal_generation_floor=50,
            policy_version=1,
            effective_model=model.id,
            daily_start=turn.day,
            monthly_start=turn.day.replace(day=1),
        )
        settlement = settle(reserved, Price.of(model), usage, provider_started=started, tolerance=TOLERANCE)
        is_known = usage is not None and usage.is_known
        assert (settlement.credits_micro > 0) == (started or is_known), "who asks pays, who does not, does not"
        for row in turn.rows:
            self.reserved[row] -= reserve.credits_micro
            self.spent[row] += settlement.credits_micro
        self.running.remove(turn)
        self.events.append((turn, settlement.credits_micro))

    @rule(days=st.integers(1, 3))
    def pass_days(self, days: int) -> None:
        self.day += timedelta(days=days)

    @invariant()
    def reserves_are_those_of_running_turns(self) -> None:
        expected: defaultdict[Row, int] = defaultdict(int)
        for turn in self.running:
            for row in turn.rows:
                expected[row] += turn.admission.reserve.credits_micro
        assert {row: amount for row, amount in self.reserved.items() if amount} == dict(expected)

    @invariant()
    def spending_is_what_events_tell(self) -> None:
        expected: defaultdict[Row, int] = defaultdict(int)
        for turn, charge in self.events:
            for row in turn.rows:
                expected[row] += charge
        assert {row: amount for row, amount in self.spent.items() if amount} == {
            row: amount for row, amount in expected.items() if amount
        }

    @invariant()
    def premium_is_a_part_of_total(self) -> None:
        for (user, key, start), amount in list(self.spent.items()):
            if key.bucket == "tier:premium":
                assert amount <= self.spent[user, BucketKey(key.period, "total"), start]

    def _used(self, row: Row) -> int:
        return self.spent[row] + self.reserved[row]


LedgerMachine.TestCase.settings = hypothesis_settings(max_examples=60, stateful_step_count=30, deadline=None)
TestLedger = LedgerMachine.TestCase

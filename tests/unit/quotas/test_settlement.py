"""What an ended turn costs."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.ids import new_uuid4
from shared.quotas.credits import MAX_TOKENS, Price
from shared.quotas.settlement import RELEASED, Reserved, Settlement, settle
from shared.turns.lifecycle import TokenUsage

PRICE = Price(1_000_000, 3_000_000)
RESERVED = Reserved(
    user_id=new_uuid4(),
    tokens=11_192,
    max_output_tokens=8_192,
    credits_micro=27_576,
    minimal_generation_floor=50,
    policy_version=1,
    effective_model="std-a",
    daily_start=date(2026, 3, 1),
    monthly_start=date(2026, 3, 1),
)


def settled(usage: TokenUsage | None, *, started: bool = True, price: Price | None = PRICE) -> Settlement:
    return settle(RESERVED, price, usage, provider_started=started, tolerance=1.10)


@pytest.mark.parametrize(
    ("usage", "credits_micro", "tokens", "capped"),
    [
        ((2_411, 377), 3_542, 2_788, False),
        ((11_500, 500), 13_000, 12_000, False),
        ((11_900, 500), 27_576, 11_192, True),
        ((11_192, 0), 11_192, 11_192, False),
        ((0, 1), 3, 1, False),
    ],
)
def test_what_the_provider_counted_is_charged_unless_it_is_far_beyond_the_reserve(
    usage: tuple[int, int], credits_micro: int, tokens: int, capped: bool
) -> None:
    settlement = settled(TokenUsage(*usage))
    assert (settlement.method, settlement.credits_micro) == ("actual", credits_micro)
    assert (settlement.charged_tokens, settlement.is_overshoot_capped) == (tokens, capped)


def test_the_factor_itself_is_tolerated() -> None:
    """1.10 times is not more than 1.10 times."""
    reserved = replace(RESERVED, tokens=1_000)
    at, beyond = (settle(reserved, PRICE, TokenUsage(n), provider_started=True, tolerance=1.10) for n in (1_100, 1_101))
    assert (at.is_overshoot_capped, beyond.is_overshoot_capped) == (False, True)


@pytest.mark.parametrize("usage", [None, TokenUsage(0, 0)])
def test_without_a_count_the_estimate_is_charged(usage: TokenUsage | None) -> None:
    settlement = settled(usage)
    assert (settlement.method, settlement.credits_micro, settlement.charged_tokens) == ("estimated", 3_150, 3_050)


def test_a_turn_that_never_asked_costs_nothing() -> None:
    assert settled(None, started=False) == RELEASED
    assert (RELEASED.credits_micro, RELEASED.charged_tokens, RELEASED.is_charged) == (0, 0, False)


def test_a_count_out_of_bounds_is_not_charged() -> None:
    settlement = settled(TokenUsage(MAX_TOKENS + 1, 0))
    assert (settlement.method, settlement.credits_micro, settlement.fault) == ("estimated", 3_150, "overflow")


def test_a_reserve_out_of_bounds_is_charged_as_it_was_taken() -> None:
    reserved = replace(RESERVED, tokens=10**12)
    settlement = settle(reserved, PRICE, None, provider_started=True, tolerance=1.10)
    assert (settlement.method, settlement.credits_micro, settlement.fault) == ("estimated", 27_576, "overflow")


def test_a_lost_price_costs_the_reserve() -> None:
    settlement = settled(TokenUsage(1, 1), price=None)
    assert (settlement.method, settlement.credits_micro, settlement.fault) == ("estimated", 27_576, "no_price")


@given(
    st.integers(0, 200_000),
    st.integers(1, 100_000),
    st.integers(1, 1_000),
    st.integers(1, 10**8),
    st.integers(1, 10**8),
    st.one_of(st.none(), st.builds(TokenUsage, st.integers(0, 400_000), st.integers(0, 200_000))),
)
def test_whoever_asks_pays_and_never_more_than_the_tolerance_allows(
    estimated: int, most: int, floor: int, in_price: int, out_price: int, usage: TokenUsage | None
) -> None:
    price = Price(in_price, out_price)
    reserved = replace(
        RESERVED,
        tokens=estimated + most,
        max_output_tokens=most,
        minimal_generation_floor=floor,
        credits_micro=price.credits_micro(estimated, most),
    )
    settlement = settle(reserved, price, usage, provider_started=True, tolerance=1.10)
    assert settlement.credits_micro > 0
    assert settlement.charged_tokens <= reserved.tokens * 1.10
    again = settle(reserved, price, usage, provider_started=True, tolerance=1.10)
    assert again == settlement

"""What tokens cost, to the last micro-credit."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.quotas.credits import MAX_TOKENS, CreditsOverflowError, Price, ceil_div

tokens = st.integers(0, MAX_TOKENS)
prices = st.builds(Price, st.integers(1, 10**10), st.integers(1, 10**10))


@pytest.mark.parametrize(
    ("price", "usage", "expected"),
    [
        (Price(500_000, 1_500_000), (3, 1), 4),  # each rounded up by itself: 2 + 2
        (Price(1_000_000, 3_000_000), (2_411, 377), 3_542),
        (Price(3_000_000, 15_000_000), (3_000, 8_192), 131_880),
        (Price(1, 1), (0, 0), 0),
        (Price(1, 1), (1, 0), 1),
        (Price(10**10, 10**10), (MAX_TOKENS, MAX_TOKENS), 2 * 10**11),
    ],
)
def test_examples(price: Price, usage: tuple[int, int], expected: int) -> None:
    assert price.credits_micro(*usage) == expected


@given(st.integers(0, 10**30), st.integers(1, 10**12))
def test_division_rounds_up_exactly(dividend: int, divisor: int) -> None:
    assert ceil_div(dividend, divisor) == -((-Fraction(dividend, divisor)) // 1)


@given(prices, tokens, tokens)
def test_a_charge_is_never_less_than_the_exact_price_and_less_than_two_more(price: Price, ins: int, outs: int) -> None:
    exact = Fraction(ins * price.input_multiplier + outs * price.output_multiplier, 1_000_000)
    assert exact <= price.credits_micro(ins, outs) < exact + 2


@given(prices, tokens, tokens, tokens, tokens)
def test_more_tokens_never_cost_less(price: Price, ins: int, outs: int, more_ins: int, more_outs: int) -> None:
    less = price.credits_micro(min(ins, more_ins), min(outs, more_outs))
    assert less <= price.credits_micro(max(ins, more_ins), max(outs, more_outs))


@pytest.mark.parametrize("usage", [(-1, 0), (0, -1), (MAX_TOKENS + 1, 0), (0, MAX_TOKENS + 1)])
def test_tokens_out_of_bounds_are_an_error(usage: tuple[int, int]) -> None:
    with pytest.raises(CreditsOverflowError):
        Price(1, 1).credits_micro(*usage)


@pytest.mark.parametrize("multiplier", [0, -1, 10**10 + 1])
def test_multipliers_out_of_bounds_are_an_error(multiplier: int) -> None:
    with pytest.raises(CreditsOverflowError):
        Price(multiplier, 1).credits_micro(1, 1)
    with pytest.raises(CreditsOverflowError):
        Price(1, multiplier).credits_micro(1, 1)

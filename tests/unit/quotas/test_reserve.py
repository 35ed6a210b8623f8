"""What is set aside, and for whom there is room."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.model_catalog.catalog import Catalog, CatalogModel
from shared.quotas.buckets import ALL_BUCKETS, TOTAL, BucketKey, buckets_of
from shared.quotas.credits import CreditsOverflowError
from shared.quotas.estimation import Included
from shared.quotas.reserve import has_room, reserve_for
from shared.settings import Settings
from tests.support.catalogs import MINI, PREMIUM, STANDARD, acceptance_catalog

PLENTY = dict.fromkeys(ALL_BUCKETS, 10**9)


def model(name: str, **changes: object) -> CatalogModel:
    found = Catalog.model_validate(acceptance_catalog()).find_model(name)
    assert found is not None
    return found.model_copy(update=changes)


def test_the_locks_of_a_user_s_buckets_have_one_order() -> None:
    assert list(ALL_BUCKETS) == sorted(ALL_BUCKETS)
    assert buckets_of("standard") == TOTAL
    assert set(TOTAL) < set(buckets_of("premium"))


@pytest.mark.parametrize(
    ("name", "cap", "output"), [(STANDARD, 32_768, 8_192), (MINI, 32_768, 4_096), (STANDARD, 1_000, 1_000)]
)
def test_a_reserve_covers_the_longest_answer_there_can_be(name: str, cap: int, output: int) -> None:
    settings = Settings.model_validate({"streaming": {"max_output_tokens": cap}})
    reserve = reserve_for(model(name), "x" * 2_000, Included(), settings)
    assert (reserve.estimated_input_tokens, reserve.max_output_tokens) == (1_100, output)
    assert reserve.tokens == 1_100 + output
    assert reserve.credits_micro == 1_100 + 3 * output


def test_a_reserve_out_of_bounds_is_an_error() -> None:
    with pytest.raises(CreditsOverflowError):
        reserve_for(model(PREMIUM), "x" * 40_000_000, Included(), Settings())


@given(st.integers(0, 10**9), st.integers(0, 10**9), st.integers(0, 10**9))
def test_room_is_measured_to_the_last_micro_credit(used: int, amount: int, limit: int) -> None:
    for key in TOTAL:
        limits = PLENTY | {key: limit}
        expected = limit > 0 and used + amount <= limit
        assert has_room(amount, "standard", used={key: used}, limits=limits) == (expected)


@pytest.mark.parametrize("key", ALL_BUCKETS)
@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_of_zero_or_less_closes_a_bucket(key: BucketKey, limit: int) -> None:
    limits = PLENTY | {key: limit}
    assert not has_room(0, "premium", used={}, limits=limits)
    assert has_room(0, "standard", used={}, limits=limits) == (key.bucket != "total")

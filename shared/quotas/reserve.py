"""What a turn sets aside before it runs, and whether there is enough for it. Pure: no I/O.

The reserve is the price of the estimated input and of the longest answer there can be. A bucket has room for it if
`spent + reserved + reserve <= limit`, to the last micro-credit; a limit of zero or less leaves no room at all. A turn
needs room in every bucket that its tier is charged to, in both periods.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from shared.model_catalog.catalog import CatalogModel, Tier
from shared.quotas.buckets import BucketKey, buckets_of
from shared.quotas.credits import Price
from shared.quotas.estimation import Included, budgets_of, estimate_input, max_output_tokens
from shared.settings import Settings


@dataclass(frozen=True, slots=True)
class Reserve:
    """In tokens and in micro-credits; stored with the turn and never changed."""

    estimated_input_tokens: int
    max_output_tokens: int
    credits_micro: int

    @property
    def tokens(self) -> int:
        return self.estimated_input_tokens + self.max_output_tokens


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a user stands: `spent + reserved` by bucket, a missing one being zero, and today's calls and images."""

    used: Mapping[BucketKey, int]
    web_search_calls: int = 0
    code_interpreter_calls: int = 0
    image_inputs: int = 0


def reserve_for(model: CatalogModel, text: str, included: Included, settings: Settings) -> Reserve:
    """
    Raises:
        CreditsOverflowError: the numbers are out of bounds.
    """
    input_tokens = estimate_input(text, included, budgets_of(model, settings))
    output_tokens = max_output_tokens(model, settings)
    return Reserve(input_tokens, output_tokens, Price.of(model).credits_micro(input_tokens, output_tokens))


def has_room(credits_micro: int, tier: Tier, *, used: Mapping[BucketKey, int], limits: Mapping[BucketKey, int]) -> bool:
    """Whether a turn of `tier` may set `credits_micro` aside."""
    return all(
        limits[key] > 0 and used.get(key, 0) + credits_micro <= limits[key]  # equality is enough
        for key in buckets_of(tier)
    )

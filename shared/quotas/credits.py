"""What tokens cost. Integer arithmetic in micro-credits; no floats anywhere near money.

    1 credit = 1 000 000 micro-credits
    a multiplier is micro-credits per million tokens, divided by a million: 1 000 000 means one micro-credit per token

Input and output are rounded up one by one. Numbers outside of their bounds are an error and never a charge.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from shared.model_catalog.catalog import MAX_MULTIPLIER, CatalogModel

MULTIPLIER_UNIT = 1_000_000
MAX_TOKENS = 10_000_000


class CreditsOverflowError(Exception):
    """Tokens or multipliers that no real turn has: whatever they would cost must not be charged."""


@dataclass(frozen=True, slots=True)
class Price:
    """What a model costs, as multipliers."""

    input_multiplier: int
    output_multiplier: int

    @classmethod
    def of(cls, model: CatalogModel) -> Self:
        return cls(model.input_tokens_credit_multiplier_micro, model.output_tokens_credit_multiplier_micro)

    def credits_micro(self, input_tokens: int, output_tokens: int) -> int:
        """
        Raises:
            CreditsOverflowError: a number is out of bounds.
        """
        return _component(input_tokens, self.input_multiplier) + _component(output_tokens, self.output_multiplier)


def ceil_div(dividend: int, divisor: int) -> int:
    """`dividend / divisor` rounded up, exactly, whatever the size of the numbers."""
    return -(-dividend // divisor)


def _component(tokens: int, multiplier: int) -> int:
    if not 0 <= tokens <= MAX_TOKENS:
        raise CreditsOverflowError(f"{tokens} tokens are out of bounds")
    if not 1 <= multiplier <= MAX_MULTIPLIER:
        raise CreditsOverflowError(f"a multiplier of {multiplier} is out of bounds")
    return ceil_div(tokens * multiplier, MULTIPLIER_UNIT)

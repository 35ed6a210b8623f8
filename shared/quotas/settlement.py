"""What an ended turn really costs, and how that was found. Pure: no I/O.

    actual      the provider counted: the price of what it counted. If that is more than was reserved by more than the
                tolerated factor, the price is the reserve instead (`overshoot_capped`).
    estimated   it was asked and did not count: the price of the estimated input and of a minimal answer
    released    it was never asked: nothing

It takes the turn's stored columns and the prices of the policy that the turn was accepted under, so that it comes out
the same whenever it is worked out again. A turn that has asked the provider is never free.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date
from typing import Literal, Self
from uuid import UUID

from shared.quotas.credits import CreditsOverflowError, Price
from shared.turns.lifecycle import TokenUsage
from shared.turns.tables import Turn

SettlementMethod = Literal["actual", "estimated", "released"]


@dataclass(frozen=True, slots=True)
class Reserved:
    """What the row of a turn says about its reserve."""

    user_id: UUID
    tokens: int
    max_output_tokens: int
    credits_micro: int
    minimal_generation_floor: int
    policy_version: int
    effective_model: str
    daily_start: date
    monthly_start: date

    @classmethod
    def of(cls, turn: Turn) -> Self | None:
        """None if the row lacks any of it: such a turn has reserved nothing."""
        if (
            turn.requester_user_id is None
            or turn.reserve_tokens is None
            or turn.max_output_tokens_applied is None
            or turn.reserved_credits_micro is None
            or turn.minimal_generation_floor_applied is None
            or turn.policy_version_applied is None
            or turn.effective_model is None
            or turn.daily_period_start is None
            or turn.monthly_period_start is None
        ):
            return None
        return cls(
            user_id=turn.requester_user_id,
            tokens=turn.reserve_tokens,
            max_output_tokens=turn.max_output_tokens_applied,
            credits_micro=turn.reserved_credits_micro,
            minimal_generation_floor=turn.minimal_generation_floor_applied,
            policy_version=turn.policy_version_applied,
            effective_model=turn.effective_model,
            daily_start=turn.daily_period_start,
            monthly_start=turn.monthly_period_start,
        )

    @property
    def estimated_input_tokens(self) -> int:
        return max(0, self.tokens - self.max_output_tokens)


@dataclass(frozen=True, slots=True)
class Settlement:
    """What is charged.

    Attributes:
        usage: what the provider counted, if the charge rests on it.
        fault: why the charge does not rest on what it should; for operators.
    """

    method: SettlementMethod
    credits_micro: int
    charged_tokens: int
    usage: TokenUsage | None = None
    is_overshoot_capped: bool = False
    fault: Literal["overflow", "no_price"] | None = None

    @property
    def is_charged(self) -> bool:
        return self.method != "released"


RELEASED = Settlement("released", credits_micro=0, charged_tokens=0)


def settle(
    reserved: Reserved, price: Price | None, usage: TokenUsage | None, *, provider_started: bool, tolerance: float
) -> Settlement:
    """
    Args:
        price: None if the policy of the turn is lost: then all that was reserved is charged.
        tolerance: how many times the reserved tokens may be used before the charge is capped.
    """
    is_known = usage is not None and usage.is_known
    if not is_known and not provider_started:
        return RELEASED
    if price is None:
        return Settlement("estimated", reserved.credits_micro, reserved.tokens, fault="no_price")
    try:
        if usage is not None and is_known:
            return _settle_actual(reserved, price, usage, tolerance)
        return _settle_estimated(reserved, price)
    except CreditsOverflowError:
        return replace(_settle_after_overflow(reserved, price), fault="overflow")


def _settle_actual(reserved: Reserved, price: Price, usage: TokenUsage, tolerance: float) -> Settlement:
    credits_micro = price.credits_micro(usage.input_tokens, usage.output_tokens)
    tokens = usage.input_tokens + usage.output_tokens
    if tokens > reserved.tokens and tokens / reserved.tokens > tolerance:
        return Settlement("actual", reserved.credits_micro, reserved.tokens, usage, is_overshoot_capped=True)
    return Settlement("actual", credits_micro, tokens, usage)


def _settle_estimated(reserved: Reserved, price: Price) -> Settlement:
    input_tokens, floor = reserved.estimated_input_tokens, reserved.minimal_generation_floor
    tokens = min(reserved.tokens, input_tokens + floor)
    return Settlement("estimated", price.credits_micro(input_tokens, floor), tokens)


def _settle_after_overflow(reserved: Reserved, price: Price) -> Settlement:
    try:
        return _settle_estimated(reserved, price)
    except CreditsOverflowError:
        return Settlement("estimated", reserved.credits_micro, reserved.tokens)

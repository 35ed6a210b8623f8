"""What the quota counts of a turn: accepted, refused, settled."""

from __future__ import annotations

from shared.metrics import Metrics
from shared.quotas.buckets import PERIODS


def count_reserve(
    metrics: Metrics, *, decision: str, model: str, from_tier: str, tier: str, images: int, estimated_tokens: int
) -> None:
    """Count a turn that was accepted."""
    _count_decision(metrics, decision, model, tier, images)
    if tier != from_tier:
        metrics.quota_tier_downgrade.labels(from_tier, tier).inc()
    for period in PERIODS:
        metrics.quota_reserve.labels(period).inc()
    metrics.quota_estimated_tokens.observe(estimated_tokens)


def count_refusal(metrics: Metrics, *, model: str, tier: str, images: int) -> None:
    """Count a turn that no quota was left for."""
    _count_decision(metrics, "reject", model, tier, images)


def count_settlement(
    metrics: Metrics, *, charged_tokens: int, overshoot_tokens: int, is_capped: bool, images: int
) -> None:
    """Count a turn that has ended."""
    for period in PERIODS:
        metrics.quota_commit.labels(period).inc()
        metrics.quota_image_commit.labels(period).inc(images)
        if overshoot_tokens > 0:
            metrics.quota_overshoot.labels(period).inc()
    metrics.quota_actual_tokens.observe(charged_tokens)
    if overshoot_tokens > 0:
        metrics.quota_overshoot_tokens.observe(overshoot_tokens)
    if is_capped:
        metrics.quota_overshoot_exceeded.inc()


def _count_decision(metrics: Metrics, decision: str, model: str, tier: str, images: int) -> None:
    metrics.quota_preflight.labels(decision, model, tier).inc()
    metrics.quota_preflight_v2.labels("image" if images else "text", decision, model, tier).inc()

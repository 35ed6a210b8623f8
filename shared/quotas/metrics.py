"""The metrics of quotas: what was reserved, what was charged, and what should never happen."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from shared.quotas.buckets import PERIODS

TOKENS: Final = (10, 50, 100, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000)


class QuotaMetrics:
    """Counters by period count turns, not credits: each turn moves the buckets of both periods."""

    def __init__(self, prefix: str, registry: CollectorRegistry) -> None:
        self._prefix, self._registry = prefix, registry
        by_decision = ("decision", "model", "tier")
        self.preflight = self._counter("quota_preflight", "Decisions about turns", by_decision)
        self.preflight_v2 = self._counter(
            "quota_preflight_v2", "Decisions about turns, with and without images", ("kind", *by_decision)
        )
        self.tier_downgrade = self._counter("quota_tier_downgrade", "Turns in a lower tier", ("from_tier", "to_tier"))
        self.reserve = self._counter("quota_reserve", "Reserves taken", ("period",))
        self.commit = self._counter("quota_commit", "Reserves settled", ("period",))
        self.overshoot = self._counter("quota_overshoot", "Turns that used more than was reserved", ("period",))
        self.negative = self._counter("quota_negative", "Buckets with less reserved than a turn of theirs", ("period",))
        self.image_commit = self._counter("quota_image_commit", "Images charged", ("period",))
        self.overshoot_exceeded = self._counter("quota_overshoot_exceeded", "Charges capped at the reserve")
        self.credits_overflow = self._counter("credits_overflow", "Charges out of bounds")
        self.estimated_tokens = self._histogram("quota_estimated_tokens", "Input tokens estimated for a turn")
        self.actual_tokens = self._histogram("quota_actual_tokens", "Tokens charged for a turn")
        self.overshoot_tokens = self._histogram("quota_overshoot_tokens", "Tokens beyond the reserve of a turn")
        self.reserved_tokens = Gauge(
            "quota_reserved_tokens",
            "Tokens reserved by running turns of the current period",
            ("period",),
            namespace=prefix,
            registry=registry,
        )

    def observe_reserve(
        self, *, decision: str, model: str, from_tier: str, tier: str, images: int, estimated_tokens: int
    ) -> None:
        """A turn that was accepted."""
        self._observe_decision(decision, model, tier, images)
        if tier != from_tier:
            self.tier_downgrade.labels(from_tier, tier).inc()
        for period in PERIODS:
            self.reserve.labels(period).inc()
        self.estimated_tokens.observe(estimated_tokens)

    def observe_refusal(self, *, model: str, tier: str, images: int) -> None:
        """A turn that no quota was left for."""
        self._observe_decision("reject", model, tier, images)

    def observe_settlement(self, *, charged_tokens: int, overshoot_tokens: int, is_capped: bool, images: int) -> None:
        """A turn that has ended."""
        for period in PERIODS:
            self.commit.labels(period).inc()
            self.image_commit.labels(period).inc(images)
            if overshoot_tokens > 0:
                self.overshoot.labels(period).inc()
        self.actual_tokens.observe(charged_tokens)
        if overshoot_tokens > 0:
            self.overshoot_tokens.observe(overshoot_tokens)
        if is_capped:
            self.overshoot_exceeded.inc()

    def _observe_decision(self, decision: str, model: str, tier: str, images: int) -> None:
        self.preflight.labels(decision, model, tier).inc()
        self.preflight_v2.labels("image" if images else "text", decision, model, tier).inc()

    def _counter(self, name: str, meaning: str, labels: tuple[str, ...] = ()) -> Counter:
        return Counter(name, meaning, labels, namespace=self._prefix, registry=self._registry)

    def _histogram(self, name: str, meaning: str) -> Histogram:
        return Histogram(name, meaning, namespace=self._prefix, registry=self._registry, buckets=TOKENS)

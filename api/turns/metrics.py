"""What the API counts of turns: those it accepts, what it refuses them for, and how the last one is changed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final, Literal

from api.turns.admission import Case
from shared.errors import ChatError, ForbiddenError
from shared.metrics import Metrics
from shared.model_catalog.catalog import Tier
from shared.quotas.credits import CreditsOverflowError
from shared.quotas.errors import QuotaExceededError
from shared.quotas.metrics import count_refusal, count_reserve
from shared.turns.errors import (
    GenerationInProgressError,
    ImageBytesExceededError,
    ImagesDisabledError,
    InvalidTurnStateError,
    NotLatestTurnError,
    TooManyImagesError,
    UnsupportedMediaError,
    WebSearchDisabledError,
)
from shared.turns.tables import Turn

Operation = Literal["retry", "edit", "delete"]

_MEDIA_ERRORS: Final = (TooManyImagesError, ImageBytesExceededError, ImagesDisabledError, UnsupportedMediaError)

_RESULTS: Final[Mapping[type[ChatError], str]] = {
    NotLatestTurnError: "not_latest",
    InvalidTurnStateError: "invalid_state",
    ForbiddenError: "forbidden",
    GenerationInProgressError: "generation_in_progress",
}


@contextmanager
def counting_refusals(metrics: Metrics) -> Iterator[None]:
    """Count what a new turn is refused for within the block, where there is a series for it."""
    try:
        yield
    except WebSearchDisabledError:
        metrics.web_search_disabled.inc()
        raise
    except _MEDIA_ERRORS as error:
        metrics.media_rejected.labels(error.code).inc()
        raise


@contextmanager
def counting_decision(metrics: Metrics, case: Case) -> Iterator[None]:
    """Count a quota that does not allow the turn, and a reserve out of bounds."""
    try:
        yield
    except QuotaExceededError:
        selected = case.catalog.find_model(case.selected_model)
        count_refusal(
            metrics,
            model="unknown" if selected is None else selected.id,
            tier="premium" if selected is None else selected.tier,
            images=case.images,
        )
        raise
    except CreditsOverflowError:
        metrics.credits_overflow.inc()
        raise


def count_accepted(metrics: Metrics, turn: Turn, case: Case) -> None:
    """Count a turn whose reserve is committed."""
    effective = case.catalog.find_model(turn.effective_model or "")
    if effective is None or turn.reserve_tokens is None or turn.max_output_tokens_applied is None:
        return
    selected = case.catalog.find_model(case.selected_model)
    from_tier: Tier = "premium" if selected is None else selected.tier
    count_reserve(
        metrics,
        decision=turn.quota_decision or "allow",
        model=effective.id,
        from_tier=from_tier,
        tier=effective.tier,
        images=case.images,
        estimated_tokens=turn.reserve_tokens - turn.max_output_tokens_applied,
    )
    if case.images:
        metrics.image_inputs_per_turn.observe(case.images)
        metrics.image_turns.labels(effective.id).inc()
    if case.files.has_code_files and case.catalog.kill_switches.disable_code_interpreter:
        metrics.code_interpreter_disabled.inc()


@contextmanager
def measured_mutation(metrics: Metrics, operation: Operation) -> Iterator[None]:
    """Count and time one change of the last turn, up to its commit or its refusal."""
    began = time.monotonic()
    result = "error"
    try:
        yield
        result = "ok"
    except ChatError as error:
        result = _RESULTS.get(type(error), "error")
        raise
    finally:
        metrics.turn_mutation.labels(operation, result).inc()
        metrics.turn_mutation_latency_ms.labels(operation).observe((time.monotonic() - began) * 1000)

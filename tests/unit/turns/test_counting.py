"""What is counted of turns that end, and of those that are refused or changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from api.turns.metrics import counting_refusals, measured_mutation
from shared.errors import ChatError, ForbiddenError
from shared.metrics import Metrics
from shared.turns.errors import (
    GenerationInProgressError,
    InvalidTurnStateError,
    NotLatestTurnError,
    TooManyImagesError,
    TurnNotFoundError,
    UnsupportedMediaError,
    WebSearchDisabledError,
)
from shared.turns.lifecycle import Ending
from shared.turns.metrics import count_end
from shared.turns.tables import Turn

STARTED = datetime(2026, 3, 1, tzinfo=UTC)
BY_MODEL = {"provider": "openai", "model": "gpt-5.2"}

ANSWERED = Ending.completed(text="yes", usage=None, response_id=None)
CUT = Ending.completed(text="yes", usage=None, response_id=None, incomplete_reason="max_tokens")
LOST = Ending.failed("orphan_timeout", provider_started=True)
STOPPED = Ending.cancelled("internal", text="", provider_started=True)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics("x")


def counters(metrics: Metrics) -> dict[str, Mapping[str, str]]:
    """The counters that have moved, each with its labels."""
    return {
        sample.name.removeprefix("x_").removesuffix("_total"): sample.labels
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name.endswith("_total") and sample.value
    }


@pytest.mark.parametrize(
    ("ending", "trigger", "counted"),
    [
        (ANSWERED, None, {"stream_completed": BY_MODEL}),
        (CUT, None, {"stream_incomplete": BY_MODEL | {"reason": "max_tokens"}}),
        (
            Ending.failed("rate_limited", provider_started=True),
            None,
            {"stream_failed": BY_MODEL | {"error_code": "rate_limited"}},
        ),
        (
            LOST,
            None,
            {
                "stream_failed": BY_MODEL | {"error_code": "orphan_timeout"},
                "streams_aborted": {"trigger": "pod_crash"},
            },
        ),
        (
            replace(LOST, was_stuck=True),
            None,
            {
                "stream_failed": BY_MODEL | {"error_code": "orphan_timeout"},
                "streams_aborted": {"trigger": "orphan_timeout"},
            },
        ),
        (STOPPED, "user_stop", {"cancel_effective": {"trigger": "user_stop"}}),
        (
            STOPPED,
            "disconnect",
            {"cancel_effective": {"trigger": "disconnect"}, "streams_aborted": {"trigger": "client_disconnect"}},
        ),
        (
            STOPPED,
            "timeout",
            {"cancel_effective": {"trigger": "timeout"}, "streams_aborted": {"trigger": "internal_abort"}},
        ),
    ],
)
def test_an_end_is_counted_by_what_the_row_says(
    metrics: Metrics, ending: Ending, trigger: str | None, counted: dict[str, dict[str, str]]
) -> None:
    """Not by what its worker has heard: of a stop that may be less."""
    turn = Turn(
        provider_name="openai",
        effective_model="gpt-5.2",
        cancel_trigger=trigger,
        started_at=STARTED,
        completed_at=STARTED + timedelta(seconds=3),
    )
    count_end(metrics, turn, ending)
    assert counters(metrics) == counted
    assert metrics.registry.get_sample_value("x_stream_total_latency_ms_sum", BY_MODEL) == 3_000


@pytest.mark.parametrize(
    ("error", "counted"),
    [
        (WebSearchDisabledError(), {"web_search_disabled": {}}),
        (TooManyImagesError(), {"media_rejected": {"reason": "too_many_images"}}),
        (UnsupportedMediaError(), {"media_rejected": {"reason": "unsupported_media"}}),
        (GenerationInProgressError(), {}),
    ],
)
def test_refusals_are_counted_where_there_is_a_series(
    metrics: Metrics, error: ChatError, counted: dict[str, dict[str, str]]
) -> None:
    with pytest.raises(type(error)), counting_refusals(metrics):
        raise error
    assert counters(metrics) == counted


@pytest.mark.parametrize(
    ("error", "result"),
    [
        (None, "ok"),
        (NotLatestTurnError(), "not_latest"),
        (InvalidTurnStateError(), "invalid_state"),
        (ForbiddenError(), "forbidden"),
        (GenerationInProgressError(), "generation_in_progress"),
        (TurnNotFoundError(), "error"),
        (RuntimeError(), "error"),
    ],
)
def test_a_change_is_counted_and_timed_whatever_comes_of_it(
    metrics: Metrics, error: Exception | None, result: str
) -> None:
    try:
        with measured_mutation(metrics, "retry"):
            if error is not None:
                raise error
    except type(error or ValueError()):
        pass
    assert counters(metrics) == {"turn_mutation": {"op": "retry", "result": result}}
    assert metrics.registry.get_sample_value("x_turn_mutation_latency_ms_count", {"op": "retry"}) == 1

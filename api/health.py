from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Query, Response
from fastapi.responses import JSONResponse

from api.dependencies import Context
from api.probe import LONGEST_INTERVAL_MS, LONGEST_SILENCE_SECS, MOST_EVENTS, timed_events
from api.problems import problem_responses
from api.sse import SSE_MEDIA_TYPE
from shared.health import ReadinessProbe

LIVENESS: Final = "/healthz"
READINESS: Final = "/readyz"

router = APIRouter(tags=["health"])


@router.head(LIVENESS, include_in_schema=False)
@router.get(LIVENESS)
async def get_health() -> dict[str, str]:
    """The process runs."""
    return {"status": "ok"}


@router.head(READINESS, include_in_schema=False)
@router.get(READINESS, responses={503: {"description": "Some check failed"}})
async def get_readiness(context: Context) -> Response:
    """The process can do its work: each check by name."""
    readiness = await ReadinessProbe(context.sessions, context.valkey, context.catalog, context.draining).run()
    return JSONResponse(readiness.document, 200 if readiness.is_ready else 503)


@router.get(
    "/healthz/stream",
    response_class=Response,
    responses=problem_responses()
    | {200: {"description": "Server-sent events: `tick`s, then `end`", "content": {SSE_MEDIA_TYPE: {}}}},
)
async def get_timed_events(
    context: Context,
    events: Annotated[int, Query(ge=1, le=MOST_EVENTS)] = 8,
    interval_ms: Annotated[int, Query(ge=10, le=LONGEST_INTERVAL_MS)] = 250,
    silence_secs: Annotated[int, Query(ge=0, le=LONGEST_SILENCE_SECS)] = 0,
) -> Response:
    """A stream to measure the way to you: `tick`s every `interval_ms`, then a silence, then `end`.

    Each says in `elapsed_ms` when it was sent, counted from the first. If ticks come together, something on the way
    holds them back; if `end` does not come, something closes connections that are silent for so long.
    """
    return timed_events(
        context.probes, context.draining, events=events, interval_ms=interval_ms, silence_secs=silence_secs
    )

from __future__ import annotations

from typing import Final

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from api.dependencies import Context
from shared.health import ReadinessProbe

LIVENESS: Final = "/healthz"
READINESS: Final = "/readyz"

router = APIRouter(tags=["health"])


@router.get(LIVENESS)
async def get_health() -> dict[str, str]:
    """The process runs."""
    return {"status": "ok"}


@router.get(READINESS, responses={503: {"description": "Some check failed"}})
async def get_readiness(context: Context) -> Response:
    """The process can do its work: each check by name."""
    readiness = await ReadinessProbe(context.sessions, context.valkey, context.catalog, context.draining).run()
    return JSONResponse(readiness.document, 200 if readiness.is_ready else 503)

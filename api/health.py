from __future__ import annotations

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from api.dependencies import Context
from shared.health import ReadinessProbe

router = APIRouter(tags=["health"])


@router.get("/healthz")
async def get_health() -> dict[str, str]:
    """The process runs."""
    return {"status": "ok"}


@router.get("/readyz", responses={503: {"description": "Some check failed"}})
async def get_readiness(context: Context) -> Response:
    """The process can do its work: each check by name."""
    readiness = await ReadinessProbe(context.sessions, context.valkey, context.catalog, context.draining).run()
    return JSONResponse(readiness.document, 200 if readiness.is_ready else 503)

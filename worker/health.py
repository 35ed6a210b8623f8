"""A worker's health, on the port of its metrics: it serves no other HTTP."""

from __future__ import annotations

from collections.abc import Mapping

from aiohttp import web

from shared.health import ReadinessProbe
from shared.metrics import Handler


def health_routes(probe: ReadinessProbe) -> Mapping[str, Handler]:
    """`/healthz`: the process runs; `/readyz`: it can do its work, each check by name."""

    async def get_health(_request: web.Request) -> web.StreamResponse:
        return web.json_response({"status": "ok"})

    async def get_readiness(_request: web.Request) -> web.StreamResponse:
        readiness = await probe.run()
        return web.json_response(readiness.document, status=200 if readiness.is_ready else 503)

    return {"/healthz": get_health, "/readyz": get_readiness}

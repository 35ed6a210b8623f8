"""The API process: `create_app` builds the application, `run` serves it behind `mini-chat api`."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Final

import uvloop
from fastapi import APIRouter, FastAPI
from starlette.middleware.cors import CORSMiddleware

from api import health
from api.attachments.routes import router as attachments
from api.chats.routes import router as chats
from api.lifespan import lifespan_of
from api.loopback import LoopbackOnly
from api.messages.routes import router as messages
from api.middleware import Foyer, RequestMiddleware
from api.model_catalog.routes import router as model_catalog
from api.openapi import DescribedApi
from api.page import page_router
from api.problems import install_handlers
from api.quotas.routes import router as quotas
from api.reactions.routes import router as reactions
from api.server import Server
from api.turns.routes import router as turns
from shared.clock import Clock
from shared.garbage import forget_start_up
from shared.logs import configure_logging
from shared.settings import ConfigurationError, Settings

BACKLOG: Final = 2_048

ROUTERS: Final[tuple[APIRouter, ...]] = (
    attachments,
    chats,
    messages,
    model_catalog,
    quotas,
    reactions,
    turns,
)
"""Everything under the base path; a feature joins by its router."""

_log = logging.getLogger(__name__)


def create_app(settings: Settings, *, clock: Clock | None = None) -> FastAPI:
    """The application. Nothing is opened before its lifespan begins.

    Raises:
        ConfigurationError: the catalog or the source of keys cannot be used.
    """
    app = DescribedApi(
        title="mini-chat",
        version="1",
        lifespan=lifespan_of(settings, clock=clock),
        openapi_url=f"{settings.prefix}/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
    )
    install_handlers(app)
    if settings.auth.mode == "dev" and not settings.auth.dev_on_any_host:
        app.add_middleware(LoopbackOnly, allow_origins=settings.cors.allow_origins)
    probes = {settings.prefix + path for path in (health.LIVENESS, health.READINESS)}
    app.add_middleware(RequestMiddleware, probes=probes)
    if settings.cors.allow_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors.allow_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["Location", "Retry-After", "RateLimit", "RateLimit-Policy"],
        )
    app.include_router(health.router, prefix=settings.prefix)
    for router in ROUTERS:
        app.include_router(router, prefix=settings.prefix + settings.base_path)
    app.include_router(page_router(settings), prefix=settings.prefix)
    app.middleware_stack = Foyer(app.build_middleware_stack())
    return app


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        ConfigurationError: the process cannot start as configured.
    """
    configure_logging(settings.log.level, "api")
    app = create_app(settings)
    with (
        _listen(settings.host, settings.port) as listener,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        runner.run(_serve(app, listener))


async def _serve(app: FastAPI, listener: socket.socket) -> None:
    """Serve within the lifespan, so that what fails there ends the process with its own error."""
    async with app.router.lifespan_context(app):
        host, port = listener.getsockname()[:2]
        _log.info("listening on http://%s:%d", f"[{host}]" if ":" in host else host, port)
        server = Server(app, app.state.context)
        forget_start_up()
        try:
            await server.serve(sockets=[listener])
        finally:
            await server.aclose()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise ConfigurationError(f"port: cannot listen on {host}:{port}: {error.strerror or error}") from None

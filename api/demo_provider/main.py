"""The scripted provider: an OpenAI-compatible server that answers what it is told, for demos, tests, benches.

It speaks the Responses API (at `/v1/responses` and Azure's `/openai/v1/responses`), the Chat Completions API
and the list of models, streaming and not, and the Files and Vector Stores APIs, OpenAI's and Azure's. It is
steered and observed through `/_control/…` on the same port. It has no credentials and no limits, so it listens
on loopback only.
"""

import asyncio
import contextlib
import ipaddress
import logging
import resource
import signal
from collections.abc import AsyncIterator, Awaitable, Callable

import uvloop
from aiohttp import web

from api.demo_provider.control import CONTROL_PREFIX, add_control_routes
from api.demo_provider.endpoints import add_api_routes, open_record
from api.demo_provider.journal import Journal
from api.demo_provider.playback import send_whole
from api.demo_provider.script import ScriptQueue
from api.demo_provider.state import JOURNAL, QUEUE, STORAGE, STORAGE_SCRIPTS
from api.demo_provider.storage import Storage
from api.demo_provider.storage_api import add_storage_routes
from api.demo_provider.storage_script import StorageScripts
from api.demo_provider.wire import ApiError

_log = logging.getLogger(__name__)

_MAX_REQUEST_BYTES = 64 * 1024 * 1024
# A bench connects a thousand callers at once; the default of 128 would drop most of their SYNs.
_BACKLOG = 4096
# The server waits this long twice (for handlers to end, then to be cancelled) before it cuts connections.
_SHUTDOWN_SECONDS = 0.2

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def build_app() -> web.Application:
    """The application with nothing queued, recorded or held.

    Serve it with handler cancellation on, as `serving` does: without it a caller that leaves a silent
    stream is noticed only at the next write.
    """
    app = web.Application(middlewares=[_shape_errors], client_max_size=_MAX_REQUEST_BYTES)
    app[QUEUE] = ScriptQueue()
    app[STORAGE_SCRIPTS] = StorageScripts()
    app[JOURNAL] = Journal()
    app[STORAGE] = Storage()
    add_api_routes(app)
    add_storage_routes(app)
    add_control_routes(app)
    return app


@contextlib.asynccontextmanager
async def serving(*, host: str, port: int) -> AsyncIterator[str]:
    """Serve a fresh application until the block ends; yields its URL. Port 0 takes a free one.

    Raises:
        ValueError: `host` is not a loopback address.
        OSError: the port is taken.
    """
    _check_loopback(host)
    runner = web.AppRunner(build_app(), access_log=None, handler_cancellation=True, shutdown_timeout=_SHUTDOWN_SECONDS)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port, backlog=_BACKLOG).start()
        bound_host, bound_port = runner.addresses[0][:2]
        yield f"http://[{bound_host}]:{bound_port}" if ":" in bound_host else f"http://{bound_host}:{bound_port}"
    finally:
        await runner.cleanup()


def run(*, host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT, then end within a second even with streams open.

    Raises:
        ValueError: `host` is not a loopback address.
        SystemExit: the port is taken; one message, exit code 1.
    """
    _check_loopback(host)
    _raise_file_limit()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve_until_signal(host, port))
    except OSError as error:
        raise SystemExit(f"demo provider cannot listen on {host}:{port}: {error.strerror or error}") from None


async def _serve_until_signal(host: str, port: int) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with serving(host=host, port=port) as url:
        _log.info("demo provider listening on %s", url)
        await stop.wait()


@web.middleware
async def _shape_errors(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Every refusal leaves in OpenAI's error shape; a call to an unknown API path is recorded as well."""
    try:
        return await handler(request)
    except ApiError as error:
        return error.response()
    except web.HTTPException as error:
        refusal = _refusal(request, error)
        if request.path.startswith(CONTROL_PREFIX) or error.status == web.HTTPRequestEntityTooLarge.status_code:
            return refusal
        await send_whole(request, refusal, await open_record(request))
        return refusal


def _refusal(request: web.Request, error: web.HTTPException) -> web.Response:
    called = f"{request.method} {request.path}"
    if error.status == web.HTTPNotFound.status_code:
        return ApiError(f"Unknown request URL: {called}.", status=404, code="unknown_url").response()
    if error.status == web.HTTPMethodNotAllowed.status_code:
        return ApiError(f"Not allowed: {called}.", status=405, code="method_not_supported").response()
    return ApiError(f"{error.reason}: {called}.", status=error.status, code="bad_request").response()


def _check_loopback(host: str) -> None:
    if host == "localhost":
        return
    try:
        is_loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_loopback = False
    if not is_loopback:
        raise ValueError(f"the demo provider listens on loopback only, not on {host!r}; use 127.0.0.1 or ::1")


def _raise_file_limit() -> None:
    """Each stream is an open file, and many systems start a process with 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

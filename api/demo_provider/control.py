"""The control endpoints: queue scripts, read back requests, see what storage is held.

They share the port with the API and ask for no credentials: the server listens on loopback only.
"""

import json

from aiohttp import web

from api.demo_provider.script import InvalidScript, parse_scripts
from api.demo_provider.state import JOURNAL, QUEUE, STORAGE, STORAGE_SCRIPTS
from api.demo_provider.storage_script import StorageScript
from api.demo_provider.wire import ApiError, json_response

CONTROL_PREFIX = "/_control/"


async def queue_scripts(request: web.Request) -> web.Response:
    """Append a JSON array of scripts to the queue, all or none; answers how many now wait."""
    try:
        scripts = parse_scripts(json.loads(await request.read()))
    except InvalidScript as error:
        raise ApiError(str(error), code="invalid_script", param=error.where) from None
    except (ValueError, RecursionError) as error:
        raise ApiError(f"The body is not valid JSON: {error}", code="invalid_json") from None
    generations, storage = request.app[QUEUE], request.app[STORAGE_SCRIPTS]
    for script in scripts:
        if isinstance(script, StorageScript):
            storage.add(script)
        else:
            generations.add(script)
    return json_response({"queued": len(generations) + len(storage)})


async def clear_scripts(request: web.Request) -> web.Response:
    """Forget the queued scripts of both kinds."""
    request.app[QUEUE].clear()
    request.app[STORAGE_SCRIPTS].clear()
    return web.Response(status=204)


async def list_requests(request: web.Request) -> web.Response:
    """The recorded requests, oldest first."""
    return json_response([record.as_json() for record in request.app[JOURNAL].list()])


async def clear_requests(request: web.Request) -> web.Response:
    """Forget the recorded requests."""
    request.app[JOURNAL].clear()
    return web.Response(status=204)


async def show_storage(request: web.Request) -> web.Response:
    """The files and vector stores held, oldest first; a vector store with its files."""
    return json_response(request.app[STORAGE].as_json())


def add_control_routes(app: web.Application) -> None:
    """Mount the control endpoints."""
    app.router.add_post(CONTROL_PREFIX + "scripts", queue_scripts)
    app.router.add_delete(CONTROL_PREFIX + "scripts", clear_scripts)
    app.router.add_get(CONTROL_PREFIX + "requests", list_requests)
    app.router.add_delete(CONTROL_PREFIX + "requests", clear_requests)
    app.router.add_get(CONTROL_PREFIX + "storage", show_storage)

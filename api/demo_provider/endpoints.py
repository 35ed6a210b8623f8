"""The endpoints a client of OpenAI calls: both generation APIs, and the list of models.

A generation request is recorded, a script is chosen for it, and the script is played in the wire form of
the API that was called. A caller that leaves before the end is noted in the record the moment its
connection is gone, which needs a server that cancels handlers then; see `serving` in `main`.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from api.demo_provider.chat_completions_api import ChatCompletionsWire, whole_completion
from api.demo_provider.generation import Answer, Generation, answer_of, parse_generation
from api.demo_provider.journal import RequestRecord
from api.demo_provider.playback import AnswerWire, Playback, send_whole
from api.demo_provider.responses_api import ResponsesWire, whole_response
from api.demo_provider.script import InvalidScript, Script, find_directive
from api.demo_provider.state import JOURNAL, QUEUE
from api.demo_provider.wire import ApiError, json_response

# Shown in the list only; a generation request may name any model.
_MODELS = ("demo", "demo-mini")
_MODELS_CREATED_AT = 1_735_689_600


@dataclass(frozen=True, slots=True)
class _Api:
    """How one generation API writes its answers."""

    stream: Callable[[Generation, Script, Answer], AnswerWire]
    whole: Callable[[Generation, Answer], dict[str, Any]]


_RESPONSES = _Api(stream=ResponsesWire, whole=whole_response)
_CHAT_COMPLETIONS = _Api(stream=ChatCompletionsWire, whole=whole_completion)


async def create_response(request: web.Request) -> web.StreamResponse:
    """POST /v1/responses, streaming or not."""
    return await _generate(request, _RESPONSES)


async def create_chat_completion(request: web.Request) -> web.StreamResponse:
    """POST /v1/chat/completions, streaming or not."""
    return await _generate(request, _CHAT_COMPLETIONS)


async def list_models(request: web.Request) -> web.StreamResponse:
    """GET /v1/models."""
    record = await open_record(request)
    models = [{"id": name, "object": "model", "created": _MODELS_CREATED_AT, "owned_by": "demo"} for name in _MODELS]
    response = json_response({"object": "list", "data": models})
    await send_whole(request, response, record)
    return response


async def open_record(request: web.Request) -> RequestRecord:
    """Read the request's body and record it."""
    received_at = time.time()
    return request.app[JOURNAL].open(request, await request.read(), received_at=received_at)


def add_api_routes(app: web.Application) -> None:
    """Mount the API."""
    app.router.add_post("/v1/responses", create_response)
    app.router.add_post("/openai/v1/responses", create_response)
    app.router.add_post("/v1/chat/completions", create_chat_completion)
    app.router.add_get("/v1/models", list_models)


async def _generate(request: web.Request, api: _Api) -> web.StreamResponse:
    record = await open_record(request)
    try:
        return await _answer(request, record, api)
    except ApiError as error:
        refusal = error.response()
        await send_whole(request, refusal, record)
        return refusal
    except asyncio.CancelledError:
        # A stopping server cancels too, but then the connection is still there.
        if request.transport is None or request.transport.is_closing():
            record.close()
        raise
    except ConnectionError:
        record.close()
        # Nobody reads this; raising would have the server log an error for what is an ordinary end.
        return web.Response()


async def _answer(request: web.Request, record: RequestRecord, api: _Api) -> web.StreamResponse:
    generation = parse_generation(record.raw_body)
    if not generation.is_streaming:
        response = json_response(api.whole(generation, answer_of(generation, Script())))
        await send_whole(request, response, record)
        return response
    script = _choose_script(request, generation)
    playback = Playback(request, record, script)
    if script.http_status is not None:
        return await playback.play_http_answer(script.http_status)
    answer = answer_of(generation, script)
    return await playback.play(api.stream(generation, script, answer), answer)


def _choose_script(request: web.Request, generation: Generation) -> Script:
    queued = request.app[QUEUE].take(generation.user_text)
    if queued is not None:
        return queued
    try:
        directive = find_directive(generation.user_text)
    except InvalidScript as error:
        raise ApiError(str(error), code="invalid_script", param=error.where) from None
    return Script() if directive is None else directive.script

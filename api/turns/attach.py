"""Decides what a client gets that comes to a turn that exists: the rest of the log, a replay, or nothing more.

| turn                 | cursor                            | answer                                            |
|----------------------|-----------------------------------|---------------------------------------------------|
| running              | none, or an entry                 | the log from there on, then live                  |
| any, log there       | an entry that the log lacks       | the whole log                                     |
| ended, log there     | none, or an entry                 | the log from there on                             |
| ended, log there     | the terminal entry                | nothing: 204, or that frame again on a POST       |
| ended, log gone      | none, or any entry                | a replay from storage                             |
| ended                | `s-k`                             | the replay's frames after k; after the last: 204, |
|                      |                                   | or that frame again on a POST                     |
| running              | `s-k`                             | the whole log                                     |

Attaching has no side effects, and any number of clients may.
"""

from __future__ import annotations

import logging
from typing import Literal

from starlette.responses import Response

from api.auth import Principal
from api.context import ApiContext
from api.turns.relay import EventStreamResponse, ReplayResponse
from api.turns.replay import Replay, load_replay
from shared.events.ids import Cursor, ReplayId
from shared.events.log import Entry
from shared.logs import add_log_fields
from shared.turns.errors import TurnNotFoundError
from shared.turns.lifecycle import TurnState
from shared.turns.tables import Turn
from shared.valkey.client import REDIS_FAILURE
from shared.valkey.keyspace import TurnKeys

logger = logging.getLogger(__name__)

Source = Literal["post", "events"]


async def attach(turn: Turn, cursor: Cursor, principal: Principal, *, source: Source, context: ApiContext) -> Response:
    """The answer for a client at `cursor`.

    Raises:
        TurnNotFoundError: the turn was deleted meanwhile.
        LimitReachedError: the caller has too many streams open; a send, which may have begun the turn, is not refused.
    """
    has_ended = TurnState(turn.state).is_terminal
    if cursor is not None:
        context.metrics.stream_resumed.labels(source=source).inc()
    if has_ended:
        context.metrics.stream_replay.labels(reason="attach").inc()
        add_log_fields(status="replayed")
    if isinstance(cursor, ReplayId):
        if has_ended:
            return _after(await _replay_of(turn, context), cursor.position, source)
        cursor = None
    keys = TurnKeys(turn.chat_id, turn.request_id)
    newest = await _newest_entry(keys, context)
    if has_ended and newest is None:
        return _after(await _replay_of(turn, context), 0, source)
    if newest is not None and newest.is_terminal and newest.id == str(cursor).encode():
        return _after_end(newest, source)
    limiter = context.limiter
    place = await (limiter.open_stream(principal) if source == "events" else limiter.join_stream(principal))
    return EventStreamResponse(
        context,
        turn_id=turn.id,
        keys=keys,
        cursor=cursor,
        has_ended=has_ended,
        is_awaited=not has_ended and turn.on_disconnect == "cancel",
        place=place,
    )


async def replay(turn: Turn, *, context: ApiContext) -> Response:
    """The whole of an ended turn from storage."""
    context.metrics.stream_replay.labels(reason="idempotent_completed").inc()
    add_log_fields(status="replayed")
    return ReplayResponse((await _replay_of(turn, context)).after(0))


async def _replay_of(turn: Turn, context: ApiContext) -> Replay:
    async with context.sessions() as session:
        found = await load_replay(session, turn.id)
    if found is None:
        raise TurnNotFoundError
    return found


async def _newest_entry(keys: TurnKeys, context: ApiContext) -> Entry | None:
    try:
        return await context.log.newest(keys)
    except REDIS_FAILURE as error:
        logger.warning("the log cannot be read: %r", error)
        return None


def _after(told: Replay, position: int, source: Source) -> Response:
    chunks = told.after(position)
    if chunks:
        return ReplayResponse(chunks)
    return ReplayResponse(told.after(len(told.frames) - 1)) if source == "post" else Response(status_code=204)


def _after_end(terminal: Entry, source: Source) -> Response:
    if source == "post":
        return ReplayResponse([b"id: ", terminal.id, b"\n", terminal.body])
    return Response(status_code=204)

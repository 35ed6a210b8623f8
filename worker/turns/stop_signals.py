"""Hears requests to stop turns at once, for all turns of this worker, on one connection."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any
from uuid import UUID

from redis.exceptions import TimeoutError as RedisTimeoutError

from shared.backoff import backoff
from shared.valkey.client import REDIS_FAILURE, Valkey
from shared.valkey.keyspace import CANCEL_CHANNEL
from worker.turns.held import Stop, StopKind
from worker.turns.leases import LeaseKeeper

logger = logging.getLogger(__name__)

HEARTBEAT_SECS = 5.0


async def hear_stop_signals(valkey: Valkey, leases: LeaseKeeper) -> None:
    """Pass signals on until cancelled. One that is missed is found in the row at the next lease renewal."""
    delays = backoff(first=0.1, longest=2.0)
    while True:
        try:
            async with valkey.pubsub(ignore_subscribe_messages=True) as subscriber:
                await subscriber.subscribe(CANCEL_CHANNEL)
                delays = backoff(first=0.1, longest=2.0)
                heard_at = time.monotonic()
                while True:
                    message = await subscriber.get_message(timeout=HEARTBEAT_SECS)
                    if message is not None:
                        heard_at = time.monotonic()
                        _obey(message, leases)
                    elif time.monotonic() - heard_at > 3 * HEARTBEAT_SECS:
                        raise RedisTimeoutError("the server does not answer")
                    else:
                        await subscriber.ping()
        except REDIS_FAILURE as error:
            logger.warning("stop signals are out of reach, will try again: %r", error)
        await asyncio.sleep(next(delays))


def _obey(message: dict[str, Any], leases: LeaseKeeper) -> None:
    if message["type"] != "message":
        return
    try:
        turn_id = UUID(message["data"].decode())
    except ValueError:
        logger.warning("a stop signal that names no turn was ignored")
        return
    leases.stop(turn_id, Stop(StopKind.CANCELLED))

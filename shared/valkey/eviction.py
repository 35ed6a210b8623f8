"""A warning at the start of every process: a server that evicts throws waiting jobs and event logs away."""

from __future__ import annotations

import logging
from typing import Final

from redis.exceptions import ResponseError

from shared.backoff import outlast
from shared.valkey.client import Valkey, is_valkey_away

NEVER: Final = "noeviction"

logger = logging.getLogger(__name__)


async def warn_of_eviction(valkey: Valkey) -> None:
    """Return once the server has said what it does when its memory is full, or that it will not say."""
    try:
        policy = await outlast(lambda: _policy_of(valkey), is_outage=_will_pass, first=0.5, longest=10.0)
    except ResponseError as error:
        logger.warning("whether Valkey evicts is unknown: %r", error)
        return
    if policy != NEVER:
        logger.warning("Valkey may throw away jobs and event logs: maxmemory-policy is %s, set %s", policy, NEVER)


async def _policy_of(valkey: Valkey) -> str:
    memory = await valkey.info("memory")
    return str(memory.get("maxmemory_policy", NEVER))  # who does not tell has none


def _will_pass(error: Exception) -> bool:
    """Not what the server refuses: some managed ones keep INFO to themselves."""
    return is_valkey_away(error) and not isinstance(error, ResponseError)

"""Verification keys from a JWKS URL, cached, and fetched off the event loop.

Keys are fresh for `LIFESPAN_SECS`. A token with an unknown key id asks again, but not sooner than `COOLDOWN_SECS`
after the last attempt, so that neither made-up ids nor a dead server turn into a request each. While the server
does not answer, the keys we have serve on, up to `STALE_SECS`; without any the service is unavailable.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import jwt

from shared.errors import UnavailableError
from shared.settings import ConfigurationError, is_loopback
from shared.tasks import BackgroundTasks

LIFESPAN_SECS: Final = 300.0
COOLDOWN_SECS: Final = 10.0
STALE_SECS: Final = 3_600.0
TIMEOUT_SECS: Final = 5.0

_log = logging.getLogger(__name__)


class JwksKeys:
    def __init__(self, url: str) -> None:
        try:
            self._client = jwt.PyJWKClient(url, cache_jwk_set=False, timeout=TIMEOUT_SECS)
        except jwt.PyJWKClientError as error:
            raise ConfigurationError(f"auth.jwt.jwks_url: {error}") from None
        parts = urlsplit(url)
        if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
            _log.warning("auth.jwt.jwks_url is not https: whoever is on the way may hand out keys of their own")
        self._keys: Mapping[str, Any] = {}
        self._fetched_at = self._tried_at = float("-inf")
        self._lock = asyncio.Lock()
        self._background = BackgroundTasks()

    async def find(self, *, alg: object, kid: object) -> Any:  # noqa: ARG002
        if isinstance(kid, str) and kid in self._keys and self._age() <= STALE_SECS:
            if self._age() > LIFESPAN_SECS and not self._background:
                # The keys we have serve on meanwhile: a slow source must not hold every request up.
                self._background.spawn(self._refresh_alone(kid), name="key refresh")
            return self._keys[kid]
        await self._refresh_alone(kid)
        if self._age() > STALE_SECS:
            raise UnavailableError("The keys to check credentials with are not available")
        if not isinstance(kid, str) or kid not in self._keys:
            raise jwt.InvalidTokenError("unknown key id")
        return self._keys[kid]

    async def _refresh_alone(self, kid: object) -> None:
        async with self._lock:
            await self._refresh(wanted=kid)

    async def _refresh(self, *, wanted: object) -> None:
        is_known_and_fresh = wanted in self._keys and self._age() <= LIFESPAN_SECS
        if is_known_and_fresh or time.monotonic() - self._tried_at < COOLDOWN_SECS:
            return  # somebody else has just asked, while we waited for the lock or before
        try:
            found = await asyncio.to_thread(self._client.get_signing_keys)
        except (jwt.PyJWTError, OSError, ValueError) as error:
            _log.warning("the key set could not be fetched: %s", error)
        else:
            self._keys = {key.key_id: key.key for key in found if key.key_id is not None}
            self._fetched_at = time.monotonic()
        finally:
            self._tried_at = time.monotonic()

    def _age(self) -> float:
        return time.monotonic() - self._fetched_at

"""A deployment as its clients reach it: the API behind a URL, and the way there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, Final

import aiohttp
import orjson

from shared.clock import Clock
from shared.doctor import path
from shared.doctor.clocks import check_clock
from shared.doctor.findings import Finding, fail, ok, warn
from shared.settings import Settings

TIMEOUT: Final = aiohttp.ClientTimeout(total=10)

_DEGRADED: Final = {
    "usage_delivery": "see `mini-chat outbox list`",
    "catalog": "correct the catalog file; the API's log says why it is refused",
}
"""What to do about a check of /readyz that is degraded."""


async def check_deployment(
    url: str, settings: Settings, clock: Clock, *, token: str | None, silence_secs: int
) -> AsyncIterator[Finding]:
    """
    Args:
        url: what comes before `prefix`.
        token: a user's, which is sent to `url`.
    """
    root = url.removesuffix(settings.prefix) + settings.prefix
    async with aiohttp.ClientSession(timeout=TIMEOUT) as session:
        try:
            asked_at = clock.now()
            async with session.get(f"{root}/readyz", allow_redirects=False) as response:
                answered_at = clock.now()
                yield _judge_readiness(response.status, await response.read())
                said_at = response.headers.get("Date")
            if said_at is not None:
                yield _check_date(said_at, asked_at=asked_at, answered_at=answered_at)
            if token is not None:
                yield await _check_token(session, f"{root}{settings.base_path}/models", token)
            passage = await path.measure(session, f"{root}/healthz/stream", silence_secs=silence_secs)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            # Its text may name the URL, in which somebody may have put a password.
            yield fail("api", f"cannot be reached ({type(error).__name__})", "check --url, TLS, and whether it runs")
            return
        for finding in path.judge(passage, silence_secs=silence_secs):
            yield finding


def _judge_readiness(status: int, body: bytes) -> Finding:
    try:
        document: Any = orjson.loads(body)
        state, checks = document["status"], document["checks"].items()
    except (ValueError, KeyError, TypeError, AttributeError):
        return fail("api", f"/readyz answers {status}, and not as the API does", "check --url and `prefix`")
    wrong = ", ".join(f"{name} {outcome}" for name, outcome in checks if outcome != "ok")
    if status != HTTPStatus.OK:
        return fail("api", f"is not ready: {wrong}", "mend what the check is named after; see the API's log")
    if wrong:
        to_do = [_DEGRADED[name] for name, outcome in checks if outcome == "degraded" and name in _DEGRADED]
        return warn("api", f"is {state}: {wrong}", " and ".join(to_do) or "see the API's log")
    return ok("api", "is ready")


def _check_date(header: str, *, asked_at: datetime, answered_at: datetime) -> Finding:
    try:
        said = parsedate_to_datetime(header)
    except ValueError:
        return warn("clock of the API", "its Date header cannot be read", "find out which proxy rewrites it")
    # Whole seconds, and servers renew it only once a second.
    return check_clock(
        "the API", said, asked_at=asked_at - timedelta(seconds=2), answered_at=answered_at + timedelta(seconds=1)
    )


async def _check_token(session: aiohttp.ClientSession, url: str, token: str) -> Finding:
    async with session.get(url, headers={"Authorization": f"Bearer {token}"}, allow_redirects=False) as response:
        status = response.status
    if status == HTTPStatus.OK:
        return ok("token", "is accepted")
    if status == HTTPStatus.UNAUTHORIZED:
        return fail("token", "is refused (401)", "check issuer, audience, key and claims in auth.jwt, and its age")
    return fail("token", f"is answered with {status}", "check its scopes and features, and the API's log")

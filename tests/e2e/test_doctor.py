"""`mini-chat doctor --url`: what it finds on the way from a client to a running API."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import Outcome, mini_chat
from tests.support.deployment import Deployment
from tests.support.nginx import nginx
from tests.support.tokens import Caller

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there is no nginx to be had as a package")

LET_THROUGH = "proxy_http_version 1.1; proxy_buffering off; proxy_read_timeout 1h;"
# The API forbids buffering by a header, which a proxy must be told to ignore.
HOLD_BACK = "proxy_http_version 1.0; proxy_buffering on; proxy_ignore_headers X-Accel-Buffering;"
CUT = "proxy_read_timeout 1s;"


async def doctor(product: Deployment, url: str, *arguments: str) -> Outcome:
    return await mini_chat("doctor", "--json", "--url", url, *arguments, variables=product.variables)


def findings(outcome: Outcome) -> dict[str, dict[str, Any]]:
    return {finding["check"]: finding for finding in outcome.json["findings"]}


async def test_a_way_that_lets_streams_through_is_fine(product: Deployment, tmp_path: Path, caller: Caller) -> None:
    token = caller.headers["Authorization"].removeprefix("Bearer ")
    with nginx(tmp_path, upstream=product.apis[0].url, location=LET_THROUGH) as url:
        outcome = await doctor(product, url, "--silence", "2", "--token", token)
    assert outcome.code == 0, outcome.out
    found = findings(outcome)
    checks = ("api", "clock of the API", "token", "stream buffering", "stream silence", "workers", "provider openai")
    assert {check: found[check]["status"] for check in checks} == dict.fromkeys(checks, "ok")
    assert found["stream silence"]["seen"] == "2 s without a word pass"


async def test_a_buffering_proxy_is_found(product: Deployment, tmp_path: Path) -> None:
    with nginx(tmp_path, upstream=product.apis[0].url, location=HOLD_BACK) as url:
        outcome = await doctor(product, url, "--silence", "1")
    assert outcome.code == 1
    found = findings(outcome)
    assert found["stream buffering"]["status"] == "fail"
    assert "proxy_buffering off" in found["stream buffering"]["change"]
    assert found["stream silence"]["status"] == "ok"


async def test_a_proxy_that_cuts_silent_streams_is_found(product: Deployment, tmp_path: Path) -> None:
    """Without `--silence` it is asked to bear what streams of this configuration do."""
    with nginx(tmp_path, upstream=product.apis[0].url, location=f"proxy_buffering off; {CUT}") as url:
        outcome = await doctor(product, url)
    assert outcome.code == 1
    found = findings(outcome)
    assert found["stream buffering"]["status"] == "ok"
    assert found["stream silence"]["status"] == "fail"
    assert re.fullmatch(r"cut after \d+\.\d s without a word; .* for 17 s", found["stream silence"]["seen"])
    assert "proxy_read_timeout" in found["stream silence"]["change"]


async def test_a_proxy_that_does_both_is_found_to_do_both(product: Deployment, tmp_path: Path) -> None:
    with nginx(tmp_path, upstream=product.apis[0].url, location=f"{HOLD_BACK} {CUT}") as url:
        found = findings(await doctor(product, url))
    assert [found[check]["status"] for check in ("stream buffering", "stream silence")] == ["fail", "fail"]


async def test_a_proxy_that_compresses_streams_is_found(product: Deployment, tmp_path: Path) -> None:
    location = f"{LET_THROUGH} gzip on; gzip_types text/event-stream; gzip_min_length 0; gzip_proxied any;"
    with nginx(tmp_path, upstream=product.apis[0].url, location=location) as url:
        found = findings(await doctor(product, url, "--silence", "0"))
    assert found["stream compression"]["seen"] == "a proxy compresses streams (gzip)"


async def test_a_token_that_is_refused_is_found(product: Deployment) -> None:
    outcome = await doctor(product, product.apis[0].url, "--silence", "0", "--token", "not.a.token")
    assert outcome.code == 1
    assert findings(outcome)["token"]["seen"] == "is refused (401)"
    assert "not.a.token" not in outcome.out


async def test_a_url_of_something_else_is_found(product: Deployment) -> None:
    found = findings(await doctor(product, product.provider_url, "--silence", "0"))
    assert found["api"]["status"] == "fail"
    assert "not as the API does" in found["api"]["seen"]

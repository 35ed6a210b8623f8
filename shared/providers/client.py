"""One pooled SDK client per provider and tenant override, with exactly the authentication that is configured.

The SDK reads keys and organizations from the environment and would send them to any host; here only `auth_header`
counts, and without one no credential leaves. It never retries by itself, which would repeat paid calls, and never
follows a redirect, which would carry the key to another host.

The base URL is the part of `api_path` before `/responses` or `/chat/completions` (shorter if the model's name is in
it); the rest, its query included, is the request's path.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote
from uuid import UUID

import httpx2
from openai import AsyncOpenAI, DefaultAioHttpClient, Omit

from shared.model_catalog.catalog import ProviderConfig, ProviderTimeouts
from shared.model_catalog.source import resolve_secret

MODEL_PLACEHOLDER = "{model}"
KEEPALIVE_SECS = 4
"""Less than the 5 s after which uvicorn and Node close an idle connection: a POST on a dying one would be lost."""
MAX_CONNECTIONS = 10_000
"""Never the bottleneck: how many calls run at once is the worker's decision."""
_GENERATION_SUFFIX = re.compile(r"/(?:responses|chat/completions)(?=$|[/?])")


@dataclass(frozen=True, slots=True)
class ApiPath:
    """`api_path` cut in two: `base` goes into the client, `request` (with `{model}`) into each call."""

    base: str
    request: str

    @classmethod
    def split(cls, api_path: str) -> ApiPath:
        cuts = [match.start() for match in _GENERATION_SUFFIX.finditer(api_path)]
        cut = cuts[-1] if cuts else api_path.partition("?")[0].rfind("/")
        placeholder = api_path.find(MODEL_PLACEHOLDER)
        if 0 <= placeholder < cut:
            cut = api_path.rfind("/", 0, placeholder)
        return cls(base=api_path[:cut], request=api_path[cut:])

    def request_for(self, provider_model_id: str) -> str:
        return self.request.replace(MODEL_PLACEHOLDER, quote(provider_model_id, safe=""))


@dataclass(frozen=True, slots=True, eq=False)
class ProviderClient:
    """What a call needs: the SDK client and the resolved configuration. `secret` is kept to remove it from texts."""

    openai: AsyncOpenAI
    config: ProviderConfig
    path: ApiPath
    secret: str | None

    @property
    def timeouts(self) -> ProviderTimeouts:
        return self.config.timeouts

    def __repr__(self) -> str:
        return f"ProviderClient({self.openai.base_url})"

    async def aclose(self) -> None:
        await self.openai.close()


@dataclass(frozen=True, slots=True)
class _Known:
    origin: ProviderConfig
    """What the client was built from, overrides included."""
    client: ProviderClient


class ProviderClients:
    """Builds clients on first use and keeps them; tenants without an override share one."""

    def __init__(self, providers: Mapping[str, ProviderConfig]) -> None:
        self._providers = providers
        self._clients: dict[tuple[str, UUID | None], _Known] = {}
        self._replaced: list[ProviderClient] = []
        """No new call begins on them, but one may still run."""
        self._tls = httpx2.create_ssl_context()  # tens of milliseconds: once, not per client

    @property
    def providers(self) -> Mapping[str, ProviderConfig]:
        """As they are reached now."""
        return self._providers

    def replace(self, providers: Mapping[str, ProviderConfig]) -> None:
        """Reach providers as `providers` says from now on; calls under way go on as they are."""
        self._providers = providers

    def get(self, provider_id: str, tenant_id: UUID, otherwise: ProviderConfig | None = None) -> ProviderClient:
        """The client of `provider_id` as `tenant_id` reaches it.

        Args:
            otherwise: how it is reached if the catalog of this process does not know it.

        Raises:
            KeyError: no such provider; the catalog refuses models that name one.
            ConfigurationError: its secret has gone since start-up.
        """
        config = self._providers.get(provider_id, otherwise)
        if config is None:
            raise KeyError(provider_id)
        key = (provider_id, tenant_id if tenant_id in config.tenant_overrides else None)
        known = self._clients.get(key)
        if known is not None and known.origin == config:
            return known.client
        client = build_client(config.for_tenant(tenant_id), tls=self._tls)
        if known is not None:
            self._replaced.append(known.client)
        self._clients[key] = _Known(config, client)
        return client

    async def aclose(self) -> None:
        clients = [*self._replaced, *(known.client for known in self._clients.values())]
        self._replaced.clear()
        self._clients.clear()
        for client in clients:
            await client.aclose()


class _ConfiguredOpenAI(AsyncOpenAI):
    """The SDK's client without its opinion on authentication: a provider may need another header, or none."""

    def _validate_headers(self, headers: Any, custom_headers: Any) -> None:
        """Nothing to check: the configuration was, at start-up."""

    async def _prepare_request(self, request: httpx2.Request) -> None:
        if isinstance(request.stream, httpx2.SyncByteStream) and not isinstance(request.stream, httpx2.ByteStream):
            request.stream = _ReadInThread(request.stream)


class _ReadInThread(httpx2.AsyncByteStream):
    """The body of an upload, a piece at a time and no faster than it is sent.

    httpx2 reads the file on the event loop, where a slow disk would hold up every stream of the process.
    """

    def __init__(self, body: Iterable[bytes]) -> None:
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        pieces = iter(self._body)
        while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
            yield piece


def build_client(config: ProviderConfig, *, tls: ssl.SSLContext) -> ProviderClient:
    """A client for a configuration whose tenant override is already applied."""
    path = ApiPath.split(config.api_path)
    secret = resolve_secret(config.auth_secret) if config.auth_secret else None
    # `connect` bounds name resolution and the wait for a connection too; silence is watched per event, not per read.
    timeout = httpx2.Timeout(None, connect=config.timeouts.connect, pool=config.timeouts.connect)
    limits = httpx2.Limits(max_connections=MAX_CONNECTIONS, keepalive_expiry=KEEPALIVE_SECS)
    openai = _ConfiguredOpenAI(
        api_key="configured-by-header",
        base_url=f"{origin_of(config)}{path.base}",
        default_headers=_headers(config, secret),
        max_retries=0,
        timeout=timeout,
        http_client=DefaultAioHttpClient(verify=tls, limits=limits, timeout=timeout, follow_redirects=False),
    )
    return ProviderClient(openai=openai, config=config, path=path, secret=secret)


def origin_of(config: ProviderConfig) -> str:
    host = f"[{config.host}]" if ":" in config.host and not config.host.startswith("[") else config.host
    return f"{'http' if config.use_http else 'https'}://{host}:{config.port}"


def _headers(config: ProviderConfig, secret: str | None) -> Mapping[str, Any]:
    """Default headers; `Omit` takes away what the SDK would add from its own arguments and the environment."""
    headers: dict[str, str | Omit] = {
        "Authorization": Omit(),
        "OpenAI-Organization": Omit(),
        "OpenAI-Project": Omit(),
        "Accept-Encoding": "identity",
    }
    if config.auth_header is None or secret is None:
        return headers
    if config.auth_header.lower() == "authorization":
        del headers["Authorization"]
    return {**headers, config.auth_header: f"{config.auth_prefix}{secret}"}

"""Whether each provider of the catalog is there and takes our key, by the list of its models, which costs nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from http import HTTPStatus
from typing import Final
from uuid import UUID

from openai import APIConnectionError, APIError, APIStatusError

from shared.doctor.findings import Finding, fail, ok, warn
from shared.model_catalog.catalog import Catalog
from shared.providers.client import ProviderClient, ProviderClients

TIMEOUT_SECS: Final = 15.0

_ANY_TENANT: Final = UUID(int=0)
"""One that the catalog says nothing particular of."""

_HAS_NO_LIST: Final = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_IMPLEMENTED})
_REFUSES: Final = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})


async def check_providers(catalog: Catalog) -> list[Finding]:
    """All of them at once, as each tenant reaches them."""
    clients = ProviderClients(catalog.providers)
    try:
        return list(await asyncio.gather(*(_check(name, client) for name, client in _targets(catalog, clients))))
    finally:
        await clients.aclose()


def _targets(catalog: Catalog, clients: ProviderClients) -> Iterator[tuple[str, ProviderClient]]:
    for provider_id, config in catalog.providers.items():
        yield f"provider {provider_id}", clients.get(provider_id, _ANY_TENANT)
        for tenant_id in config.tenant_overrides:
            yield f"provider {provider_id} of tenant {tenant_id}", clients.get(provider_id, tenant_id)


async def _check(check: str, client: ProviderClient) -> Finding:
    host = f"{client.config.host}:{client.config.port}"
    version = client.config.api_version
    try:
        async with asyncio.timeout(TIMEOUT_SECS):
            await client.openai.models.with_raw_response.list(
                extra_query=None if version is None else {"api-version": version}
            )
    except APIStatusError as error:
        return _judge(check, host, error.status_code, has_key=client.secret is not None)
    except (APIConnectionError, TimeoutError, OSError) as error:
        cause = error.__cause__ or error
        seen = f"{host} cannot be reached ({type(cause).__name__})"
        return fail(check, seen, "check host, port, TLS and firewalls")
    except APIError as error:
        return warn(check, f"{host} answers with no list of models ({type(error).__name__})", "check api_path")
    return ok(check, f"{host} answers" + (" and takes the key" if client.secret is not None else ", no key is sent"))


def _judge(check: str, host: str, status: int, *, has_key: bool) -> Finding:
    seen = f"{host} answers {status}"
    if status in _REFUSES:
        what = "refuses the key" if has_key else "wants a key, and none is configured"
        return fail(check, f"{host} {what} ({status})", "check auth_header, auth_prefix and auth_secret in the catalog")
    if status in _HAS_NO_LIST:
        return ok(check, f"{seen}: it has no list of models, so whether it takes the key is not known")
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return warn(check, f"{seen}: it throttles us", "raise the limits of the provider's account")
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return fail(check, seen, "see the provider's status page")
    return warn(check, seen, "check host and api_path in the catalog")

"""Where a request goes and what proves who sends it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import UUID

import pytest
from pydantic import ValidationError

from shared.model_catalog.catalog import ProviderConfig, TenantOverride
from shared.model_catalog.source import resolve_secret
from shared.providers.client import ApiPath, ProviderClients
from shared.settings import ConfigurationError
from tests.unit.providers.factories import TENANT, USER, a_config


@pytest.mark.parametrize(
    ("api_path", "base", "request_path"),
    [
        ("/v1/responses", "/v1", "/responses"),
        ("/openai/v1/responses", "/openai/v1", "/responses"),
        ("/responses", "", "/responses"),
        ("/v1/chat/completions?api-version=1", "/v1", "/chat/completions?api-version=1"),
        ("/responses-proxy/v1/responses", "/responses-proxy/v1", "/responses"),
        ("/deployments/{model}/chat/completions?v=2", "/deployments", "/gpt%2Fx%3A1/chat/completions?v=2"),
        ("/v1/generate?to=/a/b", "/v1", "/generate?to=/a/b"),
    ],
)
def test_the_path_is_cut_before_the_endpoint(api_path: str, base: str, request_path: str) -> None:
    path = ApiPath.split(api_path)
    assert (path.base, path.request_for("gpt/x:1")) == (base, request_path)


class Clients:
    """Builds clients of one configuration and closes them."""

    def __init__(self) -> None:
        self._open: list[ProviderClients] = []

    def __call__(self, config: ProviderConfig) -> ProviderClients:
        self._open.append(ProviderClients({"main": config}))
        return self._open[-1]

    async def aclose(self) -> None:
        for clients in self._open:
            await clients.aclose()


@pytest.fixture
async def clients_of() -> AsyncIterator[Clients]:
    clients = Clients()
    yield clients
    await clients.aclose()


async def test_tenants_share_a_client_unless_they_have_an_override(
    clients_of: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OWN_KEY", "own-secret")
    own = TenantOverride(host="own.example", auth_header="api-key", auth_secret="env:OWN_KEY")
    clients = clients_of(a_config(tenant_overrides={TENANT: own}))
    shared = clients.get("main", USER)
    assert clients.get("main", UUID(int=1)) is shared
    assert clients.get("main", TENANT) is clients.get("main", TENANT) is not shared
    assert str(clients.get("main", TENANT).openai.base_url) == "http://own.example:443/v1/"
    assert clients.get("main", TENANT).secret == "own-secret"
    assert shared.secret is None


async def test_other_providers_get_other_clients_and_the_same_keep_theirs(clients_of: Clients) -> None:
    """Calls that run on a replaced client go on: it is closed with the others, not before."""
    clients = clients_of(a_config(8080))
    first = clients.get("main", USER)
    clients.replace({"main": a_config(8080)})
    assert clients.get("main", USER) is first
    clients.replace({"main": a_config(9090)})
    second = clients.get("main", USER)
    assert str(second.openai.base_url) == "http://127.0.0.1:9090/v1/"
    assert not first.openai.is_closed()
    await clients.aclose()
    assert first.openai.is_closed()
    assert second.openai.is_closed()


async def test_a_provider_that_is_not_known_is_reached_as_the_caller_knows_it(clients_of: Clients) -> None:
    clients = clients_of(a_config(8080))
    assert str(clients.get("other", USER, a_config(9090)).openai.base_url) == "http://127.0.0.1:9090/v1/"
    assert str(clients.get("main", USER, a_config(9090)).openai.base_url) == "http://127.0.0.1:8080/v1/"
    with pytest.raises(KeyError, match="nobody"):
        clients.get("nobody", USER)


async def test_an_ipv6_host_is_bracketed(clients_of: Clients) -> None:
    config = a_config(8080).model_copy(update={"host": "::1"})
    assert str(clients_of(config).get("main", TENANT).openai.base_url) == "http://[::1]:8080/v1/"


async def test_a_missing_secret_names_its_reference(clients_of: Clients, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GONE", raising=False)
    clients = clients_of(a_config(auth_header="api-key", auth_secret="env:GONE"))
    with pytest.raises(ConfigurationError, match="env:GONE"):
        clients.get("main", TENANT)


async def test_a_secret_loses_the_line_end_it_was_mounted_with(
    clients_of: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY", "sk-1\n")
    client = clients_of(a_config(auth_header="api-key", auth_secret="env:KEY")).get("main", TENANT)
    assert (client.secret, client.openai.default_headers["api-key"]) == ("sk-1", "sk-1")


@pytest.mark.parametrize("secret", ["sk-1\nsk-2", "sk-\x7f", "sk-\u201c1\u201d"])
def test_a_secret_that_no_header_can_carry_is_refused_without_showing_it(
    secret: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY", secret)
    with pytest.raises(ConfigurationError, match="env:KEY holds characters") as caught:
        resolve_secret("env:KEY")
    assert "sk-" not in str(caught.value)


@pytest.mark.parametrize(
    "auth", [{"auth_header": "api key"}, {"auth_header": "api-key\n"}, {"auth_header": ""}, {"auth_prefix": "Bearer\n"}]
)
def test_a_header_that_cannot_be_sent_is_refused(auth: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        ProviderConfig.model_validate(a_config().model_dump() | {"auth_header": "x", "auth_secret": "env:KEY"} | auth)
    with pytest.raises(ValidationError):
        TenantOverride.model_validate({"host": "own.example"} | auth)


async def test_a_client_does_not_show_its_secret(clients_of: Clients, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY", "very-secret")
    config = a_config(auth_header="api-key", auth_secret="env:KEY")
    assert "very-secret" not in repr(clients_of(config).get("main", TENANT))

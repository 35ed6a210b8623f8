"""Where the catalog comes from: the file at `catalog.path`, or one of the two that ship with the package.

Without a path, `OPENAI_API_KEY` decides: set, the models of api.openai.com; not set, the demonstration models of the
scripted provider on this machine (`demo_provider.port`), over plain HTTP, which needs `allow_http_providers`.
"""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path

from pydantic import ValidationError

from shared.model_catalog.catalog import Catalog, ProviderConfig
from shared.settings import ConfigurationError, Settings, describe_validation_error, read_yaml

OPENAI_KEY_VARIABLE = "OPENAI_API_KEY"


def load_catalog(settings: Settings) -> Catalog:
    """Read and validate the catalog.

    Raises:
        ConfigurationError: it cannot be read or breaks a rule; the text names the file and the member.
    """
    if settings.catalog.path is not None:
        return _load(settings.catalog.path, settings)
    name = "openai.yaml" if uses_openai() else "demo.yaml"
    with resources.as_file(resources.files("shared.model_catalog") / name) as path:
        return _load(path, settings)


def uses_openai() -> bool:
    """Whether the built-in catalog is the one of api.openai.com (a key is set)."""
    return bool(os.environ.get(OPENAI_KEY_VARIABLE))


def resolve_secret(reference: str) -> str:
    """The secret behind `env:NAME` or `file:/path`, without the line end that files and mounted secrets often have.

    Raises:
        ConfigurationError: it is missing or empty, or no header can carry it; the text names the reference, never the
            secret.
    """
    scheme, _, name = reference.partition(":")
    try:
        secret = os.environ[name] if scheme == "env" else Path(name).read_text(encoding="utf-8")
    except (KeyError, OSError, UnicodeDecodeError):
        secret = ""
    secret = secret.strip()
    if not secret:
        raise ConfigurationError(f"auth_secret: {reference} is missing or empty")
    if not (secret.isascii() and secret.isprintable()):
        # Said now: at the first call it would be an error of every turn.
        raise ConfigurationError(f"auth_secret: {reference} holds characters that no HTTP header can carry")
    return secret


def _load(path: Path, settings: Settings) -> Catalog:
    tree = read_yaml(path)
    try:
        catalog = Catalog.model_validate(tree)
    except ValidationError as error:
        raise ConfigurationError(f"{path}: {describe_validation_error(error)}") from None
    for provider_id, provider in catalog.providers.items():
        try:
            _check_provider(provider, settings)
        except ConfigurationError as error:
            raise ConfigurationError(f"{path}: providers.{provider_id}.{error}") from None
    if settings.catalog.path is None and not uses_openai():
        return _with_demo_port(catalog, settings.demo_provider.port)
    return catalog


def _check_provider(provider: ProviderConfig, settings: Settings) -> None:
    if provider.use_http and not settings.allow_http_providers:
        raise ConfigurationError("use_http: plain HTTP needs allow_http_providers")
    if provider.timeouts.total >= settings.turns.total_timeout_secs:
        raise ConfigurationError("timeouts.total: must be less than turns.total_timeout_secs")
    secrets = [
        provider.auth_secret,
        *(override.auth_secret for override in provider.tenant_overrides.values()),
    ]
    for reference in filter(None, secrets):
        resolve_secret(reference)


def _with_demo_port(catalog: Catalog, port: int) -> Catalog:
    providers = {name: config.model_copy(update={"port": port}) for name, config in catalog.providers.items()}
    return catalog.model_copy(update={"providers": providers})

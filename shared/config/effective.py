"""The configuration as it is in force: each value, and where it comes from. No secret is in it.

A `SecretStr` is masked as a whole, except that of a URL the harmless parts are kept: an operator must see which server
is meant. Every other text with a scheme is treated as a URL as well. Of a URL only what is known to be harmless is
shown; one that is not plainly of the usual form is masked as a whole, as a password with a `/` in it ends up anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl
from uuid import UUID

from pydantic import BaseModel, SecretStr

from shared.run.environment import Configured, Source
from shared.settings import Settings

MASK: Final = "********"

_URL: Final = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://"
    r"(?:(?P<user>[^:@/?#\s]*)(?P<password>:[^@/?#\s]*)?@)?"
    r"(?P<place>[A-Za-z0-9.:\[\]_%,-]*(?:/[^?#@\s]*)?)"
    r"(?:\?(?P<query>[^#@\s]*))?"
)
_HARMLESS_PARAMETERS: Final = frozenset({"db", "protocol", "ssl", "ssl_cert_reqs", "sslmode"})


@dataclass(frozen=True, slots=True)
class EffectiveValue:
    """`value` is fit for JSON, and masked."""

    key: str
    value: Any
    source: Source


def effective_values(settings: Settings, configured: Configured) -> Iterator[EffectiveValue]:
    """Every key, in the order of the settings."""
    for key, value in _leaves(settings, ""):
        yield EffectiveValue(key, masked(value), configured.source_of(key))


def masked(value: Any) -> Any:
    """A setting's value as it may be shown."""
    match value:
        case SecretStr():
            secret = value.get_secret_value()
            return masked_url(secret) if "://" in secret else MASK
        case str() if "://" in value:
            return masked_url(value)
        case Path() | UUID():
            return str(value)
        case tuple() | list():
            return [masked(item) for item in value]
        case _:
            return value


def masked_url(url: str) -> str:
    """The URL without its password, and without query parameters that are not known to be harmless."""
    match = _URL.fullmatch(url)
    if match is None:
        return MASK
    # A name without a password, and any name on the web, may itself be a token.
    is_name = match["password"] is not None and not match["scheme"].lower().startswith("http")
    who = f"{match['user']}:{MASK}@" if is_name else f"{MASK}@"
    shown = f"{match['scheme']}://{'' if match['user'] is None else who}{match['place']}"
    if match["query"]:
        pairs = parse_qsl(match["query"], keep_blank_values=True)
        harmless = [f"{name}={value}" for name, value in pairs if name in _HARMLESS_PARAMETERS]
        hidden = [MASK] if len(harmless) < len(pairs) else []
        shown += "?" + "&".join(harmless + hidden)
    return shown


def _leaves(group: BaseModel, prefix: str) -> Iterator[tuple[str, Any]]:
    for name in type(group).model_fields:
        value = getattr(group, name)
        if isinstance(value, BaseModel):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value

"""Who is calling, and what they may do.

In `jwt` mode the bearer token is verified against one key or a key set, with pinned algorithms; `exp` is required,
issuer and audience are checked where configured, tenant and user must be UUIDs. In `dev` mode every request is one
fixed user with every permission. Whatever cannot be decided is refused: a token that is odd in any way is none
(401), a scope claim of a strange form grants nothing, and a key source that never answered makes the service
unavailable (503) rather than open.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Protocol

import jwt

from api.jwks import JwksKeys
from api.odata import parse_uuid
from shared.errors import ForbiddenError, UnauthenticatedError
from shared.ids import TenantId, UserId
from shared.settings import AuthSettings, ConfigurationError, JwtSettings

_log = logging.getLogger(__name__)


class Action(StrEnum):
    CREATE = "create"
    LIST = "list"
    READ = "read"
    UPDATE = "update"
    DELETE = "delete"
    LIST_MESSAGES = "list_messages"
    SEND_MESSAGE = "send_message"
    UPLOAD_ATTACHMENT = "upload_attachment"
    READ_ATTACHMENT = "read_attachment"
    DELETE_ATTACHMENT = "delete_attachment"
    READ_TURN = "read_turn"
    RETRY_TURN = "retry_turn"
    EDIT_TURN = "edit_turn"
    DELETE_TURN = "delete_turn"
    CANCEL_TURN = "cancel_turn"
    SET_REACTION = "set_reaction"
    DELETE_REACTION = "delete_reaction"
    LIST_MODELS = "list_models"
    READ_MODEL = "read_model"
    READ_QUOTA = "read_quota"


ALL_ACTIONS: Final = frozenset(Action)
READ_ACTIONS: Final = frozenset(
    {
        Action.LIST,
        Action.READ,
        Action.LIST_MESSAGES,
        Action.READ_ATTACHMENT,
        Action.READ_TURN,
        Action.LIST_MODELS,
        Action.READ_MODEL,
        Action.READ_QUOTA,
    }
)
SCOPES: Final[Mapping[str, frozenset[Action]]] = {
    "*": ALL_ACTIONS,
    "ai:mini_chat": ALL_ACTIONS,
    "ai:mini_chat:read": READ_ACTIONS,
    "ai:mini_chat:write": ALL_ACTIONS - READ_ACTIONS,
}


class FeatureNotLicensedError(ForbiddenError):
    code = "feature_not_licensed"
    default_detail = "The tenant has no licence for this feature"


@dataclass(frozen=True, slots=True)
class Principal:
    """The caller: everything they own is found under tenant and user together."""

    tenant_id: TenantId
    user_id: UserId
    permissions: frozenset[Action]
    features: frozenset[str]


class Authenticator(Protocol):
    async def authenticate(self, token: str | None) -> Principal:
        """The caller that `token` stands for.

        Raises:
            UnauthenticatedError: no token, or one that does not hold.
            UnavailableError: the keys to check it with have never been available.
        """
        ...


def create_authenticator(settings: AuthSettings) -> Authenticator:
    """The authenticator of the configured mode.

    Raises:
        ConfigurationError: `auth.jwt` has no usable source of keys.
    """
    return DevAuthenticator(settings) if settings.mode == "dev" else JwtAuthenticator(settings.jwt)


class DevAuthenticator:
    """One fixed user for every request, whatever its headers say."""

    def __init__(self, settings: AuthSettings) -> None:
        features = frozenset(filter(None, [settings.license_feature]))
        self._principal = Principal(
            TenantId(settings.dev_tenant_id), UserId(settings.dev_user_id), ALL_ACTIONS, features
        )

    async def authenticate(self, token: str | None) -> Principal:  # noqa: ARG002
        return self._principal


class JwtAuthenticator:
    def __init__(self, settings: JwtSettings) -> None:
        self._settings = settings
        self._algorithms = list(settings.algorithms)
        self._keys = _keys_of(settings)

    async def authenticate(self, token: str | None) -> Principal:
        if token is None:
            raise UnauthenticatedError
        try:
            header = jwt.get_unverified_header(token)
            key = await self._keys.find(alg=header.get("alg"), kid=header.get("kid"))
            claims = jwt.decode(
                token,
                key,
                algorithms=self._algorithms,
                issuer=self._settings.issuer,
                audience=self._settings.audience,
                leeway=self._settings.leeway_secs,
                options={"require": ["exp"], "verify_aud": self._settings.audience is not None},
            )
            return self._principal_of(claims)
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as error:
            # The text of these errors is about the token's form; it never holds the token or the key.
            _log.info("token refused: %s", type(error).__name__)
            raise UnauthenticatedError from error

    def _principal_of(self, claims: Mapping[str, Any]) -> Principal:
        names = self._settings
        return Principal(
            tenant_id=TenantId(parse_uuid(_text(claims.get(names.tenant_claim)))),
            user_id=UserId(parse_uuid(_text(claims.get(names.user_claim)))),
            permissions=frozenset[Action]().union(
                *(SCOPES.get(scope, frozenset()) for scope in _words(claims.get(names.scope_claim)))
            ),
            features=_words(claims.get(names.features_claim)),
        )


class KeySource(Protocol):
    async def find(self, *, alg: object, kid: object) -> Any:
        """The key to check a token with, whose header names `alg` and `kid`; any PyJWTError if there is none."""
        ...


class StaticKey:
    """The one key of the configuration: a secret for HS*, else a PEM public key, which each algorithm must take."""

    def __init__(self, key: str, algorithms: tuple[str, ...]) -> None:
        self._prepared = {name: _prepare(key, name) for name in algorithms}

    async def find(self, *, alg: object, kid: object) -> Any:  # noqa: ARG002
        if not isinstance(alg, str) or alg not in self._prepared:
            raise jwt.InvalidAlgorithmError
        return self._prepared[alg]


def _keys_of(settings: JwtSettings) -> KeySource:
    if settings.key is not None and settings.jwks_url is not None:
        raise ConfigurationError("auth.jwt: key and jwks_url exclude each other")
    if settings.key is not None:
        return StaticKey(settings.key.get_secret_value(), settings.algorithms)
    if settings.jwks_url is not None:
        return JwksKeys(settings.jwks_url)
    raise ConfigurationError("auth.jwt: key or jwks_url is required unless auth.mode is dev")


def _prepare(key: str, algorithm: str) -> Any:
    try:
        prepared = jwt.get_algorithm_by_name(algorithm).prepare_key(key)
    except (jwt.PyJWTError, ValueError, TypeError) as error:
        raise ConfigurationError(f"auth.jwt.key: cannot be used for {algorithm}: {type(error).__name__}") from None
    if not isinstance(prepared, bytes):
        return prepared
    size = hashlib.new(f"sha{algorithm[2:]}").digest_size
    if len(prepared) < size:
        _log.warning("auth.jwt.key is shorter than the %d bytes that %s asks for", size, algorithm)
    # PyJWT warns of a short secret with every token. HMAC itself fills a secret up with zeros to a block, which is
    # longer than this, so that the padded secret is the same secret.
    return prepared.ljust(size, b"\0")


def _text(claim: object) -> str:
    if not isinstance(claim, str):
        raise TypeError("not a string")
    return claim


def _words(claim: object) -> frozenset[str]:
    """The members of a space-separated string or of a list of strings; of anything else, none."""
    if isinstance(claim, str):
        return frozenset(claim.split())
    if isinstance(claim, list) and all(isinstance(item, str) for item in claim):
        return frozenset(claim)
    return frozenset()

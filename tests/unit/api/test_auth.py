"""Who gets in with which token."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from api.auth import ALL_ACTIONS, READ_ACTIONS, SCOPES, Action, Authenticator, create_authenticator
from shared.clock import SystemClock
from shared.errors import UnauthenticatedError
from shared.ids import new_uuid4
from shared.settings import AuthSettings, ConfigurationError
from tests.support.tokens import SECRET, claims_of, sign

TENANT, USER = new_uuid4(), new_uuid4()
RSA_KEY = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())


def pem_of(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> str:
    public = key.public_key()
    return public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()


def jwt_auth(**changes: Any) -> Authenticator:
    values: dict[str, Any] = {"algorithms": ["HS256"], "key": SECRET} | changes
    return create_authenticator(AuthSettings.model_validate({"mode": "jwt", "jwt": values}))


def token(key: Any = SECRET, algorithm: str = "HS256", **changes: Any) -> str:
    return sign(claims_of(TENANT, USER, **changes), key=key, algorithm=algorithm)


def in_seconds(seconds: float) -> int:
    return int((SystemClock().now() + timedelta(seconds=seconds)).timestamp())


def part(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


async def test_a_good_token_names_tenant_user_and_permissions() -> None:
    principal = await jwt_auth().authenticate(token(features=["ai_chat"]))
    assert (principal.tenant_id, principal.user_id) == (TENANT, USER)
    assert (principal.permissions, principal.features) == (ALL_ACTIONS, frozenset({"ai_chat"}))


async def test_ids_are_taken_in_any_case() -> None:
    principal = await jwt_auth().authenticate(token(sub=str(USER).upper()))
    assert principal.user_id == USER


async def test_claim_names_are_configurable() -> None:
    auth = jwt_auth(tenant_claim="org", user_claim="uid", scope_claim="scp", features_claim="caps")
    changes: dict[str, Any] = {
        "org": str(TENANT),
        "uid": str(USER),
        "scp": ["*"],
        "caps": "a b",
        "sub": "mail@example.com",
    }
    principal = await auth.authenticate(token(tenant_id=None, scope=None, **changes))
    assert (principal.tenant_id, principal.user_id) == (TENANT, USER)
    assert (principal.permissions, principal.features) == (ALL_ACTIONS, frozenset({"a", "b"}))


@pytest.mark.parametrize(
    "make",
    [
        lambda: None,
        lambda: "",
        lambda: "nonsense",
        lambda: "a.b.c",
        lambda: "é.é.é",
        lambda: token() + "x",
        lambda: token(key=SECRET + "x"),
        lambda: token(algorithm="HS512"),
        lambda: token(exp=None),
        lambda: token(exp=in_seconds(-31)),
        lambda: token(exp="soon"),
        lambda: token(nbf=in_seconds(60)),
        lambda: token(tenant_id=None),
        lambda: token(tenant_id="acme"),
        lambda: token(tenant_id=TENANT.hex),
        lambda: token(tenant_id=7),
        lambda: token(sub=None),
        lambda: token(sub=f"urn:uuid:{USER}"),
        lambda: f"{part({'alg': 'none'})}.{part(claims_of(TENANT, USER, exp=in_seconds(60)))}.",
        lambda: f"{part({'alg': ['HS256']})}.{part({})}.x",
        lambda: f"{part({'alg': 'HS256', 'kid': 5})}.{part({})}.x",
        lambda: f"{part([])}.{part({})}.x",
    ],
)
async def test_a_token_that_is_odd_in_any_way_is_none(make: Callable[[], str | None]) -> None:
    with pytest.raises(UnauthenticatedError):
        await jwt_auth().authenticate(make())


async def test_leeway_forgives_a_clock_that_is_a_little_off() -> None:
    assert (await jwt_auth().authenticate(token(exp=in_seconds(-20)))).user_id == USER
    with pytest.raises(UnauthenticatedError):
        await jwt_auth(leeway_secs=0).authenticate(token(exp=in_seconds(-20)))


@pytest.mark.parametrize(
    ("configured", "good", "bad"),
    [
        ({"issuer": "https://id"}, {"iss": "https://id"}, [{}, {"iss": "https://other"}, {"iss": ["https://id"]}]),
        ({"audience": "chat"}, {"aud": ["x", "chat"]}, [{}, {"aud": "other"}, {"aud": {}}]),
    ],
)
async def test_issuer_and_audience_are_checked_where_configured(
    configured: dict[str, str], good: dict[str, Any], bad: list[dict[str, Any]]
) -> None:
    auth = jwt_auth(**configured)
    assert (await auth.authenticate(token(**good))).user_id == USER
    assert (await jwt_auth().authenticate(token(**good))).user_id == USER
    for changes in bad:
        claims = claims_of(TENANT, USER, exp=in_seconds(60), **changes)
        # Signed as bytes, because the library refuses to make some of these.
        odd = jwt.PyJWS().encode(json.dumps(claims).encode(), SECRET, "HS256")
        with pytest.raises(UnauthenticatedError):
            await auth.authenticate(odd)


@pytest.mark.parametrize(("key", "algorithm"), [(RSA_KEY, "RS256"), (RSA_KEY, "PS384"), (EC_KEY, "ES256")])
async def test_public_keys(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, algorithm: str) -> None:
    auth = jwt_auth(algorithms=[algorithm], key=pem_of(key))
    assert (await auth.authenticate(token(key, algorithm))).user_id == USER
    with pytest.raises(UnauthenticatedError):
        await auth.authenticate(token())


async def test_a_public_key_is_no_hmac_secret() -> None:
    """The classic confusion: a token signed by HMAC with the public key, which everybody has."""
    pem = pem_of(RSA_KEY)
    body = f"{part({'alg': 'HS256', 'typ': 'JWT'})}.{part(claims_of(TENANT, USER, exp=in_seconds(60)))}"
    forged = f"{body}.{base64.urlsafe_b64encode(_hmac(pem.encode(), body.encode())).rstrip(b'=').decode()}"
    with pytest.raises(UnauthenticatedError):
        await jwt_auth(algorithms=["RS256"], key=pem).authenticate(forged)
    with pytest.raises(ConfigurationError, match=r"auth\.jwt\.key"):
        jwt_auth(algorithms=["HS256"], key=pem)


async def test_a_short_secret_works_and_is_the_secret_it_was() -> None:
    auth = jwt_auth(key="short")
    body = f"{part({'alg': 'HS256', 'typ': 'JWT'})}.{part(claims_of(TENANT, USER, exp=in_seconds(60)))}"
    signature = base64.urlsafe_b64encode(_hmac(b"short", body.encode())).rstrip(b"=").decode()
    assert (await auth.authenticate(f"{body}.{signature}")).user_id == USER


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"key": None, "algorithms": ["RS256"]}, "key or jwks_url is required"),
        ({"algorithms": ["RS256"], "key": "-----BEGIN PUBLIC KEY-----\nbroken\n-----END PUBLIC KEY-----"}, "RS256"),
        ({"algorithms": ["RS256"], "key": pem_of(EC_KEY)}, "RS256"),
        ({"algorithms": ["ES384"], "key": pem_of(EC_KEY)}, "ES384"),
        ({"key": ""}, "HS256"),
        ({"key": SECRET, "jwks_url": "https://id/jwks"}, "exclude each other"),
        ({"algorithms": ["RS256"], "key": None, "jwks_url": "file:///etc/passwd"}, "jwks_url"),
    ],
)
def test_an_unusable_source_of_keys_stops_the_start(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        jwt_auth(**changes)


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        ("*", ALL_ACTIONS),
        ("openid ai:mini_chat:read", READ_ACTIONS),
        (["ai:mini_chat:read", "ai:mini_chat:write"], ALL_ACTIONS),
        ("ai:mini_chat:write", ALL_ACTIONS - READ_ACTIONS),
        ("AI:MINI_CHAT", frozenset()),
        (None, frozenset()),
        (["*", 1], frozenset()),
        ({"*": True}, frozenset()),
    ],
)
async def test_scopes_grant_actions_and_odd_ones_nothing(scope: object, expected: frozenset[Action]) -> None:
    assert (await jwt_auth().authenticate(token(scope=scope))).permissions == expected


def test_every_action_is_either_read_or_written() -> None:
    assert SCOPES["ai:mini_chat:read"].isdisjoint(SCOPES["ai:mini_chat:write"])
    assert SCOPES["ai:mini_chat:read"] | SCOPES["ai:mini_chat:write"] == frozenset(Action)


async def test_dev_mode_is_one_user_whatever_the_token() -> None:
    settings = AuthSettings(mode="dev", license_feature="ai_chat")
    auth = create_authenticator(settings)
    for given in (None, "nonsense", token()):
        principal = await auth.authenticate(given)
        assert (principal.tenant_id, principal.user_id) == (settings.dev_tenant_id, settings.dev_user_id)
        assert (principal.permissions, principal.features) == (ALL_ACTIONS, frozenset({"ai_chat"}))


def _hmac(key: bytes, message: bytes) -> bytes:
    return jwt.get_algorithm_by_name("HS256").sign(message, key)

"""Keys from a URL: when they are fetched, and what a dead server means."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from api import jwks
from api.auth import Authenticator, create_authenticator
from shared.errors import UnauthenticatedError, UnavailableError
from shared.ids import new_uuid4
from shared.settings import AuthSettings
from tests.support.tokens import claims_of
from tests.support.waiting import wait_until

TENANT, USER = new_uuid4(), new_uuid4()
OLD, NEW = (rsa.generate_private_key(public_exponent=65_537, key_size=2_048) for _ in range(2))


class KeyServer:
    """Serves `keys` by id, or fails while there are none."""

    def __init__(self) -> None:
        self.keys: dict[str, rsa.RSAPrivateKey] = {}
        self.others: list[dict[str, Any]] = []
        self.raw: bytes | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.requests = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.requests += 1
                outer.gate.wait(10)
                body = outer.raw or json.dumps({"keys": outer.document() + outer.others}).encode()
                self.send_response(200 if outer.keys else 500)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/jwks"

    def document(self) -> list[dict[str, Any]]:
        algorithm = jwt.get_algorithm_by_name("RS256")
        return [
            json.loads(algorithm.to_jwk(key.public_key())) | {"kid": kid, "use": "sig"}
            for kid, key in self.keys.items()
        ]

    def close(self) -> None:
        self.gate.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def server() -> Iterator[KeyServer]:
    server = KeyServer()
    yield server
    server.close()


@pytest.fixture
def auth(server: KeyServer) -> Authenticator:
    settings = {"mode": "jwt", "jwt": {"jwks_url": server.url, "algorithms": ["RS256", "PS256"]}}
    return create_authenticator(AuthSettings.model_validate(settings))


def token(key: rsa.RSAPrivateKey, kid: str | None, algorithm: str = "RS256") -> str:
    return jwt.encode(claims_of(TENANT, USER), key, algorithm, headers={"kid": kid} if kid else None)


@pytest.mark.parametrize(
    ("url", "is_warned"),
    [("http://id.example/jwks", True), ("https://id.example/jwks", False), ("http://localhost:9/jwks", False)],
)
def test_keys_that_travel_in_the_open_are_warned_of(
    caplog: pytest.LogCaptureFixture, url: str, is_warned: bool
) -> None:
    create_authenticator(AuthSettings.model_validate({"mode": "jwt", "jwt": {"jwks_url": url}}))
    assert ("jwks_url is not https" in caplog.text) == is_warned


async def test_keys_are_fetched_once(server: KeyServer, auth: Authenticator) -> None:
    server.keys = {"a": OLD}
    for algorithm in ("RS256", "PS256"):
        assert (await auth.authenticate(token(OLD, "a", algorithm))).user_id == USER
    assert server.requests == 1


@pytest.mark.parametrize("kid", ["b", None])
async def test_an_unknown_key_id_is_no_token_and_costs_one_request_at_most(
    server: KeyServer, auth: Authenticator, kid: str | None
) -> None:
    server.keys = {"a": OLD}
    for _ in range(3):
        with pytest.raises(UnauthenticatedError):
            await auth.authenticate(token(NEW, kid))
    assert server.requests == 1


async def test_a_key_of_another_id_does_not_sign(server: KeyServer, auth: Authenticator) -> None:
    server.keys = {"a": OLD}
    with pytest.raises(UnauthenticatedError):
        await auth.authenticate(token(NEW, "a"))


async def test_a_rotated_key_is_found(server: KeyServer, auth: Authenticator, monkeypatch: pytest.MonkeyPatch) -> None:
    server.keys = {"a": OLD}
    assert (await auth.authenticate(token(OLD, "a"))).user_id == USER
    monkeypatch.setattr(jwks, "COOLDOWN_SECS", 0.0)
    server.keys = {"b": NEW}
    assert (await auth.authenticate(token(NEW, "b"))).user_id == USER
    with pytest.raises(UnauthenticatedError):
        await auth.authenticate(token(OLD, "a"))


async def test_without_any_keys_the_service_is_unavailable(server: KeyServer, auth: Authenticator) -> None:
    for _ in range(3):
        with pytest.raises(UnavailableError):
            await auth.authenticate(token(OLD, "a"))
    assert server.requests == 1


async def test_known_keys_outlive_an_outage_for_a_while(
    server: KeyServer, auth: Authenticator, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.keys = {"a": OLD}
    assert (await auth.authenticate(token(OLD, "a"))).user_id == USER
    monkeypatch.setattr(jwks, "COOLDOWN_SECS", 0.0)
    monkeypatch.setattr(jwks, "LIFESPAN_SECS", 0.0)
    server.keys = {}
    assert (await auth.authenticate(token(OLD, "a"))).user_id == USER
    await wait_until(lambda: server.requests == 2)
    monkeypatch.setattr(jwks, "STALE_SECS", 0.0)
    with pytest.raises(UnavailableError):
        await auth.authenticate(token(OLD, "a"))


async def test_a_key_set_s_public_key_is_no_hmac_secret(server: KeyServer, auth: Authenticator) -> None:
    """Whoever can read the key set can sign with what is in it, if the token may choose the algorithm."""
    server.keys = {"a": OLD}
    public = OLD.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    unsigned = token(OLD, "a").rpartition(".")[0].partition(".")[2]
    for algorithm in ("HS256", "none"):
        header = base64.urlsafe_b64encode(json.dumps({"alg": algorithm, "kid": "a"}).encode()).rstrip(b"=").decode()
        signature = hmac.digest(public, f"{header}.{unsigned}".encode(), "sha256") if algorithm == "HS256" else b""
        forged = f"{header}.{unsigned}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"
        with pytest.raises(UnauthenticatedError):
            await auth.authenticate(forged)


async def test_keys_that_are_not_for_signing_or_of_another_kind_sign_nothing(
    server: KeyServer, auth: Authenticator
) -> None:
    secret = b"0123456789" * 4
    server.keys = {"a": OLD}
    server.others = [
        server.document()[0] | {"kid": "e", "use": "enc"},
        {"kty": "oct", "kid": "s", "k": base64.urlsafe_b64encode(secret).decode().rstrip("=")},
        {"kty": "unheard of", "kid": "u"},
    ]
    assert (await auth.authenticate(token(OLD, "a"))).user_id == USER
    symmetric = jwt.encode(claims_of(TENANT, USER), secret, "HS256", headers={"kid": "s"})
    for refused in (token(OLD, "e"), symmetric, token(OLD, "u")):
        with pytest.raises(UnauthenticatedError):
            await auth.authenticate(refused)
    assert server.requests == 1


@pytest.mark.parametrize("raw", [b"not JSON", b"[]", b"{}", b'{"keys": []}', b'{"keys": [{"kty": "RSA", "kid": "a"}]}'])
async def test_a_key_set_that_cannot_be_read_takes_no_key_away(
    server: KeyServer, auth: Authenticator, monkeypatch: pytest.MonkeyPatch, raw: bytes
) -> None:
    server.keys = {"a": OLD}
    assert (await auth.authenticate(token(OLD, "a"))).user_id == USER
    monkeypatch.setattr(jwks, "COOLDOWN_SECS", 0.0)
    server.raw = raw
    with pytest.raises(UnauthenticatedError):
        await auth.authenticate(token(NEW, "b"))
    assert server.requests == 2
    assert (await auth.authenticate(token(OLD, "a"))).user_id == USER


async def test_many_unknown_key_ids_at_once_are_one_request(server: KeyServer, auth: Authenticator) -> None:
    server.keys = {"a": OLD}
    answers = await asyncio.gather(
        *(auth.authenticate(token(NEW, f"made up {number}")) for number in range(20)), return_exceptions=True
    )
    assert {type(answer) for answer in answers} == {UnauthenticatedError}
    assert server.requests == 1


async def test_a_source_that_hangs_holds_up_nobody_whose_key_is_known(
    server: KeyServer, auth: Authenticator, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.keys = {"a": OLD}
    assert (await auth.authenticate(token(OLD, "a"))).user_id == USER
    monkeypatch.setattr(jwks, "COOLDOWN_SECS", 0.0)
    monkeypatch.setattr(jwks, "LIFESPAN_SECS", 0.0)
    server.gate.clear()
    for _ in range(3):
        assert (await auth.authenticate(token(OLD, "a"))).user_id == USER
    await wait_until(lambda: server.requests == 2)
    server.gate.set()

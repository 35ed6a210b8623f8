"""Secrets leave the text, everything else stays, and no text takes long."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.audit.redaction import MAX_FIELD_BYTES, PATTERN_NAMES, REDACTED, TRUNCATED, cut, redact, redact_field

PEM = "-----BEGIN {kind}PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASC\n-----END {kind}PRIVATE KEY-----"
ALNUM = "Ab3dEf9hIj"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dBjftJeZ4CVPmB92K27uhbUJU1p1r"

SECRETS = [
    ("bearer", "Authorization: Bearer abc.def-123"),
    ("bearer", "authorization: bearer\tQWxhZGRpbjpvcGVu=="),
    ("jwt", JWT),
    ("jwt", f"?token={JWT}&x=1"),
    ("sk_key", "sk-proj-Abc123_def-456"),
    ("sk_key", "key_sk-0123456789abcdef"),
    ("aws_key_id", "AKIAIOSFODNN7EXAMPLE"),
    ("aws_key_id", "(ASIAIOSFODNN7EXAMPLE)"),
    ("azure_key", ALNUM * 8 + "+/abcd=="),
    ("azure_key", "AccountKey=c2VjcmV0;EndpointSuffix=core"),
    ("azure_key", "0123456789abcdef0123456789abcdef"),
    ("azure_key", (ALNUM * 6)[:52] + "JQQJ99" + (ALNUM * 3)[:26]),
    ("azure_key", "api-key: 99887766"),
    ("azure_key", "https://x.blob.core.windows.net/c?sv=1&sig=abcdefghijklmnopqrstuv%3D"),
    ("azure_key", "abc8Q~" + ALNUM * 3 + "xyz9"),
    ("api_key", "api_key=topsecret"),
    ("api_key", "OPENAI_API_KEY = 'top secret'"),
    ("api_key", '{"client_secret": "top secret", "a": 1}'),
    ("api_key", 'client_secret="top secret without an end'),
    ("password", "password=hunter2;x"),
    ("password", "DB_PASSWORD: hunter2"),
    ("password", r"{\"password\": \"hunter2\"}"),
    ("pem_private_key", PEM.format(kind="")),
    ("pem_private_key", PEM.format(kind="RSA ")),
    ("pem_private_key", PEM.format(kind="")[:60]),
    ("base64", "A" * 201),
    ("base64", ALNUM * 21 + "=="),
]

HOSTILE = [
    *(
        "eyJ-",
        "-eyJaaaaa.",
        "eyJaaaaa",
        ".eyJaaaaaa",
        "bearer ",
        "Bearer\t",
        "sk-",
        "-sk-a ",
        "AKIA",
        "A",
        "a-",
        "=",
        "0",
    ),
    *(
        'api_key="',
        "api_key='\"",
        "api_key=",
        "client_secret: ",
        "password",
        "password = ",
        "pwd\\'",
        "pwd   ",
        "api-key",
    ),
    *(
        "-----BEGIN PRIVATE KEY-----",
        "-----BEGIN ",
        "-----BEGIN AAAA",
        "-----END ",
        "-",
        "A" * 200 + " ",
        "A" * 86 + "=",
    ),
    *("&sig=", "?sig=aaaa", "aaa8Q~", "AccountKey", "AccountKey = ", "\n", " ", '"', "abc0123456789/+", "é", "JQQJ99"),
]


@pytest.mark.parametrize(("pattern", "text"), SECRETS)
def test_a_secret_leaves_the_text(pattern: str, text: str) -> None:
    result = redact(f"before {text} after")
    assert pattern in result.hits
    assert REDACTED in result.text
    assert result.text.startswith("before ")
    for secret in ("topsecret", "top secret", "hunter2", "IOSFODNN7", "c2VjcmV0", "99887766", "MIIEvQ", "dBjft", ALNUM):
        assert secret not in result.text


def test_every_pattern_is_tested() -> None:
    assert {pattern for pattern, _ in SECRETS} == set(PATTERN_NAMES)


@pytest.mark.parametrize(
    "text",
    [
        "Ask the risk-averse task-force about passwords, api keys and bearers.",
        "eyJ is how such a token begins; AKIA is how a key id does.",
        "550e8400-e29b-41d4-a716-446655440000 is an id, 42 a number.",
        "A" * 200,
        "https://example.com/a/very/long/path?page=2&sort=asc",
        "",
    ],
)
def test_harmless_text_stays(text: str) -> None:
    assert redact(text) == redact(redact(text).text)
    assert redact(text).text == text
    assert redact(text).hits == {}


def test_names_stay_and_hits_are_counted() -> None:
    result = redact("password=a password=b Bearer abcdef https://h/?api_key=x&page=2")
    assert result.text == (
        f"password={REDACTED} password={REDACTED} Bearer {REDACTED} https://h/?api_key={REDACTED}&page=2"
    )
    assert result.hits == {"password": 2, "bearer": 1, "api_key": 1}


def test_a_secret_across_the_cut_does_not_survive_in_part() -> None:
    text = "x" * 150 + " " + "y " * ((MAX_FIELD_BYTES - 160) // 2) + "AKIAIOSFODNN7EXAMPLE" + " z" * 100
    result = redact_field(text)
    assert "AKIA" not in result.text
    assert result.text.endswith(TRUNCATED)


def test_a_field_of_the_limit_is_whole() -> None:
    assert cut("é" * (MAX_FIELD_BYTES // 2)) == "é" * (MAX_FIELD_BYTES // 2)


@given(st.text(), st.integers(min_value=0, max_value=40))
def test_a_cut_keeps_a_prefix_of_whole_characters(text: str, limit: int) -> None:
    result = cut(text, limit=limit)
    kept = result.removesuffix(TRUNCATED) if len(text.encode()) > limit else result
    assert text.startswith(kept)
    assert len(kept.encode()) <= limit or kept == text


@given(
    st.lists(
        st.one_of(
            st.text(alphabet="abc de", min_size=1, max_size=20),
            st.sampled_from([text for _, text in SECRETS if "-----END" in text or "-----BEGIN" not in text]),
        ),
        max_size=8,
    )
)
def test_what_stands_around_secrets_stays(parts: list[str]) -> None:
    secrets = {text for _, text in SECRETS}
    lines = redact("\n".join(parts)).text.split("\n")
    words = [line for line in lines if line and set(line) <= set("abc de")]
    assert words == [part for part in parts if part not in secrets]


@pytest.mark.parametrize("unit", HOSTILE)
@pytest.mark.parametrize("head", ["", "eyJaaaaa.", 'password="', "bearer ", "-----BEGIN PRIVATE KEY-----"])
def test_no_text_takes_long(head: str, unit: str) -> None:
    """Quadratic time would take minutes for this, linear time takes well under a second."""
    text = head + unit * (300_000 // len(unit))
    began = time.process_time()
    redact(text)
    assert time.process_time() - began < 3

"""`mini-chat config` tells everything but secrets."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from shared.config.effective import MASK, masked, masked_url
from tests.support.commands import mini_chat

SECRETS = {
    "AUTH__JWT__KEY": "hmac-s3cr3t-s3cr3t-s3cr3t-s3cr3t",
    "AUTH__JWT__ALGORITHMS": '["HS256"]',
    "AUTH__JWT__JWKS_URL": "https://reader:jwks-s3cr3t@keys.example/jwks?token=query-s3cr3t",
    "DATABASE__URL": "postgresql://app:db-s3cr3t@db.example:5432/chat?sslmode=require&password=other-s3cr3t",
    "REDIS__URL": "rediss://:redis-s3cr3t@redis.example:6380/2",
    "USAGE_SINK__KIND": "http",
    "USAGE_SINK__URL": "https://token-s3cr3t@usage.example/events",
    "USAGE_SINK__SECRET": "whsec_czNjcjN0czNjcjN0czNjcjN0czNjcjN0",
    "AUDIT_SINK": '{"kind": "http", "url": "http://audit.example", "secret": "whsec_czNjcjN0czNjcjN0czNjcjN0czNjcjN0"}',
    "TRACING__OTLP_ENDPOINT": "https://u:otlp-s3cr3t@traces.example",
}


@pytest.mark.parametrize("form", [[], ["--json"]])
async def test_no_secret_is_shown(form: list[str]) -> None:
    shown = await mini_chat("config", *form, variables=SECRETS)
    assert (shown.code, shown.err) == (0, "")
    assert "s3cr3t" not in shown.out
    assert "czNjcjN0" not in shown.out
    assert "postgresql://app:********@db.example:5432/chat?sslmode=require&********" in shown.out
    assert "rediss://:********@redis.example:6380/2" in shown.out
    assert "https://********@usage.example/events" in shown.out


async def test_each_value_tells_where_it_comes_from(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("port: 9000\nauth:\n  jwt:\n    issuer: them\nredis:\n  url: redis://:file-s3cr3t@h/1\n")
    variables = {"CONFIG": str(file), "PORT": "9001", "AUTH": '{"jwt": {"audience": "us"}}', "HOST": ""}
    document = (await mini_chat("config", "--json", variables=variables)).json
    assert document["file"] == str(file)
    told = {key: (one["value"], one["source"]) for key, one in document["settings"].items()}
    assert told["port"] == (9001, "environment")
    assert told["auth.jwt.audience"] == ("us", "environment")
    assert told["auth.jwt.issuer"] == ("them", "file")
    assert told["redis.url"] == ("redis://:********@h/1", "file")
    assert told["host"] == ("127.0.0.1", "default")
    assert told["streaming.max_output_tokens"] == (32_768, "default")


async def test_a_table_has_a_row_for_each_key() -> None:
    shown = await mini_chat("config", variables={"CONTEXT__WEB_SEARCH_GUARD": "two\nlines"})
    header, *rows = shown.out.splitlines()
    assert header.split() == ["KEY", "VALUE", "SOURCE"]
    assert len(rows) == len((await mini_chat("config", "--json")).json["settings"])
    assert any(row.startswith("context.web_search_guard") and "two lines" in row for row in rows)


def test_a_reader_that_has_seen_enough_is_no_failure() -> None:
    """Of a command with more output than a pipe holds, by the shell's account of both."""
    script = Path(sys.executable).with_name("mini-chat")
    guard = "x" * 100_000
    ended = subprocess.run(
        ["/bin/sh", "-c", f"{sys.executable} {script} config --json | head -n 1"],
        env={"PATH": os.environ["PATH"], "MINI_CHAT_CONTEXT__WEB_SEARCH_GUARD": guard},
        capture_output=True,
        text=True,
    )
    assert (ended.stdout, ended.stderr) == ("{\n", "")


async def test_a_configuration_that_cannot_be_used_is_refused_without_its_values() -> None:
    refused = await mini_chat("config", variables={"DATABASE__URL": "postgresql://app:db-s3cr3t@host:port/chat"})
    assert refused.code == 2
    assert refused.err.startswith("mini-chat: database.url: ")
    assert "s3cr3t" not in refused.err


@given(
    scheme=st.sampled_from(["postgresql", "redis", "rediss", "unix", "https"]),
    password=st.text(st.characters(categories=["L", "N", "P", "S"]), max_size=12).map(lambda text: f"§{text}§"),
    user=st.sampled_from(["", "app"]),
    rest=st.sampled_from(["host", "host:5432/name", "host/0?db=1", "/run/redis.sock"]),
)
def test_no_part_of_a_password_is_shown_whatever_is_in_it(scheme: str, password: str, user: str, rest: str) -> None:
    """One that should have been quoted splits the URL anywhere."""
    assert "§" not in masked_url(f"{scheme}://{user}:{password}@{rest}")


@pytest.mark.parametrize("url", ["redis://:12/34@host/0", "redis://:12?34@host", "redis://a:12#34@host", "x://a@b@c"])
def test_an_odd_url_is_masked_as_a_whole(url: str) -> None:
    assert masked_url(url) == MASK


def test_a_secret_without_a_place_is_masked_as_a_whole() -> None:
    assert masked(SecretStr("x")) == MASK

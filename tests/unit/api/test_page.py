"""What the page is served with: a build stands in that is as small as one can be."""

from __future__ import annotations

import json
import logging
import re
from html import unescape
from pathlib import Path

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from api.page import page_router
from api.problems import install_handlers
from shared.settings import AuthSettings, PageSettings, Settings

DOCUMENT = '<!doctype html><head><meta name="mini-chat" content="{}" /></head>'
YEAR = "public, max-age=31536000, immutable"


@pytest.fixture
def dist(tmp_path: Path) -> Path:
    (tmp_path / "assets").mkdir()
    (tmp_path / "index.html").write_text(DOCUMENT)
    (tmp_path / "assets" / "index-abc.js").write_bytes(b"plain")
    (tmp_path / "assets" / "index-abc.js.br").write_bytes(b"brotli")
    (tmp_path / "assets" / "index-abc.js.gz").write_bytes(b"gzip")
    (tmp_path / "assets" / "icon-abc.svg").write_bytes(b"<svg/>")
    return tmp_path


def client_of(settings: Settings, dist: Path) -> TestClient:
    app = FastAPI(openapi_url=None, redirect_slashes=False)
    install_handlers(app)
    app.include_router(page_router(settings, dist=dist), prefix=settings.prefix)
    return TestClient(app, follow_redirects=False)


def test_the_document_tells_the_page_where_the_api_is(dist: Path) -> None:
    settings = Settings(prefix="/ai", base_path="/chat/v2", auth=AuthSettings(mode="dev"))
    page = client_of(settings, dist).get("/ai/")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    found = re.search(r'<meta name="mini-chat" content="([^"]*)" />', page.text)
    assert found is not None
    config = json.loads(unescape(found[1]))
    assert config == {"basePath": "/ai/chat/v2", "auth": "dev", "maxSilenceSecs": 17}


def test_the_document_is_asked_for_each_time_and_protected(dist: Path) -> None:
    headers = client_of(Settings(), dist).get("/").headers
    assert headers["cache-control"] == "no-cache"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    policy = headers["content-security-policy"]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == rules["frame-ancestors"] == rules["base-uri"] == "'none'"
    assert rules["script-src"] == rules["style-src"] == rules["connect-src"] == "'self'"
    assert "unsafe" not in policy


@pytest.mark.parametrize(
    ("accepted", "coding", "body"),
    [
        ("gzip, deflate, br, zstd", "br", b"brotli"),
        ("gzip", "gzip", b"gzip"),
        ("br;q=0, gzip;q=0.5", "gzip", b"gzip"),
        ("identity", None, b"plain"),
    ],
)
def test_an_asset_is_kept_and_comes_packed(dist: Path, accepted: str, coding: str | None, body: bytes) -> None:
    client = client_of(Settings(), dist)
    with client.stream("GET", "/assets/index-abc.js", headers={"Accept-Encoding": accepted}) as answer:
        raw = b"".join(answer.iter_raw())
    assert (answer.status_code, raw, answer.headers.get("content-encoding")) == (200, body, coding)
    assert answer.headers["cache-control"] == YEAR
    assert answer.headers["vary"] == "Accept-Encoding"
    assert answer.headers["content-type"].startswith("text/javascript")


def test_an_asset_that_was_not_packed_comes_as_it_is(dist: Path) -> None:
    answer = client_of(Settings(), dist).get("/assets/icon-abc.svg", headers={"Accept-Encoding": "br"})
    assert (answer.content, answer.headers["content-type"]) == (b"<svg/>", "image/svg+xml")


@pytest.mark.parametrize("path", ["/assets/none.js", "/assets/index-abc.js.br", "/assets/", "/index.html", "/chats"])
def test_other_paths_are_problems(dist: Path, path: str) -> None:
    answer = client_of(Settings(), dist).get(path)
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_other_methods_are_problems(dist: Path) -> None:
    answer = client_of(Settings(), dist).post("/")
    assert (answer.status_code, answer.json()["code"], answer.headers["allow"]) == (
        405,
        "method_not_allowed",
        "GET, HEAD",
    )


def test_the_prefix_alone_leads_to_the_page(dist: Path) -> None:
    answer = client_of(Settings(prefix="/ai"), dist).get("/ai")
    assert (answer.status_code, answer.headers["location"]) == (308, "/ai/")


def test_a_page_that_is_switched_off_is_not_there(dist: Path) -> None:
    client = client_of(Settings(page=PageSettings(enabled=False)), dist)
    assert client.get("/").status_code == client.get("/assets/index-abc.js").status_code == 404


def test_a_page_that_was_not_built_is_not_there_and_said_to_be(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        client = client_of(Settings(), tmp_path)
    assert client.get("/").status_code == 404
    assert "make page" in caplog.text

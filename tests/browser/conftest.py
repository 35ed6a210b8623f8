"""Fixtures of tests that drive the page in a browser, against real processes. `make test-browser` runs them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, async_playwright

from tests.browser.chat_page import ChatPage, Witness
from tests.browser.chromium import ARGUMENTS, find_chromium
from tests.support.database import cloned_database
from tests.support.deployment import Deployment, deployment


@pytest.fixture(scope="session")
def valkey_url(valkey_url: str) -> str:
    """A database of our own."""
    return urlsplit(valkey_url)._replace(path="/2").geturl()


@pytest.fixture(scope="session")
def product(template_url: str, valkey_url: str) -> Iterator[Deployment]:
    """An API process without login, and a worker whose loss is noticed soon. Each test has chats of its own."""
    runner = asyncio.Runner()
    database = cloned_database(template_url)
    try:
        url = runner.run(database.__aenter__())
        with deployment(
            database_url=url,
            valkey_url=valkey_url,
            apis=1,
            workers=1,
            AUTH__MODE="dev",
            TURNS__LEASE_SECS="3",
            STREAMING__SSE_PING_INTERVAL_SECONDS="5",
        ) as running:
            yield running
    finally:
        runner.run(database.__aexit__(None, None, None))
        runner.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=find_chromium(), args=ARGUMENTS)
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope="session")
async def context(browser: Browser) -> AsyncIterator[BrowserContext]:
    """A browser that has never been here, with the clipboard at its disposal."""
    context = await browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    yield context
    await context.close()


@pytest_asyncio.fixture(loop_scope="session")
async def witness(context: BrowserContext, product: Deployment) -> AsyncIterator[Witness]:
    """Fails the test afterwards if any tab threw an error, broke the policy, or asked anyone but the product."""
    witness = Witness({process.url for process in product.apis})
    context.on("page", witness.watch)
    yield witness
    assert witness.complaints == []


@pytest_asyncio.fixture(loop_scope="session")
async def page(context: BrowserContext, product: Deployment, witness: Witness) -> ChatPage:
    """A tab that shows the page, ready for a new chat."""
    return await ChatPage.open(context, product.apis[0].url)

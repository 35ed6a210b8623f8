"""What is left, what happens when it is used up, and how the page says so."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator

import asyncpg
import pytest
import pytest_asyncio
from playwright.async_api import BrowserContext, expect

from tests.browser.accessibility import expect_no_violation
from tests.browser.chat_page import ChatPage, Witness
from tests.support.books import set_spent
from tests.support.catalogs import PREMIUM, STANDARD
from tests.support.deployment import Deployment, Process
from tests.support.tokens import Caller

pytestmark = pytest.mark.asyncio(loop_scope="session")

A_FORTUNE = 10**15


@pytest.fixture
def caller() -> Caller:
    """A user of their own: all others would be poor as well."""
    return Caller()


@pytest.fixture
def api(product: Deployment, caller: Caller) -> Iterator[Process]:
    variables = {"AUTH__DEV_TENANT_ID": str(caller.tenant_id), "AUTH__DEV_USER_ID": str(caller.user_id)}
    with product.extra_api(**variables) as api:
        yield api


@pytest_asyncio.fixture(loop_scope="session")
async def database(product: Deployment) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(product.database_url)
    yield connection
    await connection.close()


async def test_what_is_used_up_is_said(
    database: asyncpg.Connection, caller: Caller, api: Process, context: BrowserContext, witness: Witness
) -> None:
    """First premium, then everything: another model answers and says so, then nothing does, and nothing is lost."""
    witness.allow(api.url)
    page = await ChatPage.open(context, api.url)
    meters = page.page.locator(".quota")
    await expect(meters).to_contain_text("100 % left")
    await set_spent(database, caller.tenant_id, caller.user_id, {("daily", "tier:premium"): A_FORTUNE})
    await page.ask("Who answers without premium?")
    await page.expect_status("done")
    await expect(page.latest.locator(".downgrade")).to_have_text(
        f"Answered by {STANDARD.upper()} instead of {PREMIUM.upper()}: the premium credits are used up."
    )
    await expect(meters.get_by_role("meter", name="Premium models, today: left")).to_have_attribute(
        "aria-valuenow", "0"
    )
    await expect(meters.locator("summary")).to_contain_text(re.compile(r"Premium models, today\s*used up\s*resets .+"))
    await expect_no_violation(page)

    await set_spent(database, caller.tenant_id, caller.user_id, {("daily", "total"): A_FORTUNE})
    await page.composer.fill("And who without any?")
    await page.composer.press("Enter")
    await expect(page.notice).to_contain_text("Your credits are used up.")
    await expect(page.notice).to_have_attribute("data-code", "quota_exceeded")
    await expect(page.composer).to_have_value("And who without any?")
    await expect(page.turns).to_have_count(1)
    await expect(meters.locator("[data-state=exhausted]")).to_have_count(2)
    await meters.locator("summary").click()
    await expect_no_violation(page)


async def test_web_searches_are_used_up(
    product: Deployment, caller: Caller, context: BrowserContext, witness: Witness
) -> None:
    """One can still ask without."""
    variables = {"AUTH__DEV_TENANT_ID": str(caller.tenant_id), "AUTH__DEV_USER_ID": str(caller.user_id)}
    with product.extra_api(QUOTA__WEB_SEARCH_DAILY_QUOTA="1", **variables) as api:
        witness.allow(api.url)
        page = await ChatPage.open(context, api.url)
        product.queue_scripts({"match": "the first search", "text": "Found.", "tools": [{"name": "web_search"}]})
        await page.button("Web search").click()
        await page.ask("Please do the first search")
        await page.expect_status("done")
        await page.composer.fill("And a second?")
        await page.composer.press("Enter")
        await expect(page.notice).to_contain_text("No more web searches today. You can still ask without.")
        await expect(page.composer).to_have_value("And a second?")
        await expect(page.turns).to_have_count(1)
        await page.button("Web search").click()
        await page.composer.press("Enter")
        await page.expect_status("done")
        await expect(page.turns).to_have_count(2)
        await expect(page.notice).to_have_count(0)

"""With `auth.mode: jwt` a token is asked for, and asked for again when it is refused."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from http import HTTPStatus

import pytest
from playwright.async_api import BrowserContext, Route, expect

from shared.clock import SystemClock
from shared.ids import new_uuid4
from tests.browser.chat_page import ChatPage, Witness
from tests.support.deployment import Deployment
from tests.support.tokens import claims_of, sign

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_token_opens_the_page(product: Deployment, context: BrowserContext, witness: Witness) -> None:
    tenant, user = new_uuid4(), new_uuid4()
    expired = sign(claims_of(tenant, user, exp=SystemClock().now() - timedelta(hours=1)))
    with product.extra_api(AUTH__MODE="jwt") as api:
        witness.allow(api.url)
        page = await context.new_page()
        await page.goto(f"{api.url}/")
        field, sign_in = page.get_by_label("Access token"), page.get_by_role("button", name="Sign in")
        late = asyncio.Event()

        async def wait(route: Route) -> None:
            """One of the requests is answered when another token is there already."""
            await late.wait()
            await route.continue_()

        await page.route("**/quota/status", wait, times=1)
        await field.fill(expired)
        await sign_in.click()
        await expect(page.get_by_role("alert")).to_contain_text("not accepted")

        await field.fill(sign(claims_of(tenant, user)))
        await sign_in.click()
        tab = ChatPage(page)
        async with page.expect_response(lambda response: response.status == HTTPStatus.UNAUTHORIZED):
            late.set()
        await tab.ask("Who am I?")
        await tab.expect_status("done")
        assert await page.evaluate(
            "[localStorage, sessionStorage].every(store => !JSON.stringify(store).includes('ey'))"
        )

        await page.reload()
        await field.fill(sign(claims_of(tenant, user)))
        await sign_in.click()
        await tab.expect_status("done")
        await expect(tab.latest.locator(".bubble")).to_have_text("Who am I?")
